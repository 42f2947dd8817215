"""What the figures of a run say, in words."""

from __future__ import annotations

from ...calibration.drift import Drift
from ..numbers import NONE, counted, saving, share, significant
from .figures import RunFigures


def summary(figures: RunFigures) -> str:
    """Return the run in a few sentences: answers, accuracy, cost, exits, failures."""
    total = figures.total
    videos, answered = len(figures.lines), len(figures.answered)
    said = [] if (where := part(figures)) is None else [where]
    said.append(f"{answered:,} of {counted(videos, 'video')} {'has' if videos == 1 else 'have'} an answer.")
    if total.accuracy is not None:
        said.append(f"{share(total.accuracy)} of those with a label are right.")
    if total.gmacs is not None:
        said.append(f"On average a video used {used(figures)}.")
    if total.videos and figures.checkpoints > 1:
        first, last = figures.by_exit[0], figures.by_exit[-1]
        said.append(
            f"{share(first.videos / total.videos)} left at the first checkpoint, {share(last.videos / total.videos)} at "
            f"the last."
        )
    failed = videos - answered
    if failed:
        causes = "the cause is" if len(figures.failures) == 1 else "the causes are"
        said.append(f"{counted(failed, 'video')} failed; {causes} below.")
    return " ".join(said)


def used(figures: RunFigures) -> str:
    """Return the multiply-adds of a video on average, and what that saved where the static network's are known."""
    mean, static = figures.total.gmacs or 0.0, figures.static_gmacs
    return saving(mean, static) if static else f"{significant(mean)} GMACs"


def saved(figures: RunFigures) -> tuple[str, str]:
    """Return the saving as one number, and of what."""
    if figures.total.gmacs is None:
        return NONE, "the results say nothing about multiply-adds"
    figure, _, share = used(figures).partition(": ")
    if not share:
        return NONE, f"used {figure} on average; the results do not tell, or not alike, what the static network takes"
    return share.removesuffix(" saved"), f"used {figure} on average"


def part(figures: RunFigures) -> str | None:
    """Return which part of a list the lines are; None if they are all of it, or nothing says so."""
    (index, count), missing = figures.shard, figures.missing
    said = [f"This is shard {index} of {count}."] if count > 1 else []
    if missing and figures.listed:
        have = "has" if missing == 1 else "have"
        said.append(f"{len(figures.lines):,} of {counted(figures.listed, 'video')}; {missing:,} {have} no line.")
    if not figures.list_read:
        said.append("The run ended before its list was read, so how many videos have no line is not known.")
    return " ".join(said) or None


def above_static(figures: RunFigures) -> str | None:
    """Return how a video can take more than the static network; None if none did."""
    if all(line.fraction is None or line.fraction <= 1 for line in figures.answered):
        return None
    return (
        "More than 100 % of the static network is possible: that has one head, at its end, and a video on the route "
        "passes the head of every checkpoint on its way."
    )


def classes(figures: RunFigures) -> list[str]:
    """Return the names of labels and answers, in order."""
    return sorted({name for pair in figures.confusion for name in pair})


def mistakes(figures: RunFigures, most: int) -> list[tuple[str, str, int]]:
    """Return the most frequent mistakes: label, answer, number of videos."""
    wrong = [(label, answer, count) for (label, answer), count in figures.confusion.items() if label != answer]
    return sorted(wrong, key=lambda one: (-one[2], one[:2]))[:most]


def drift(found: Drift) -> str:
    """Return whether videos leave as they did at calibration."""
    figures = (
        f"{share(found.exit_distance)} of the videos would have to leave at another checkpoint to match, where chance "
        f"explains up to {share(found.exit_chance)}; counting confidences in bins of 0.1, too, "
        f"{share(found.confidence_distance)}, where chance explains up to {share(found.confidence_chance)} (99 % of "
        "equal draws)."
    )
    if found.drifted:
        return f"Videos leave differently than at calibration: calibrate on newer videos. {figures}"
    return f"Videos leave as they did at calibration. {figures}"
