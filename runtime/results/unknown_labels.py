"""Labels of a list that are no classes of the bundle: a video needs none, but they count as wrong answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

LOG = logging.getLogger("dynvid")


def warn_of_unknown(rows: Iterable[tuple[str, str | None]], classes: Sequence[str]) -> None:
    """Warn of labels that are no classes.

    Args:
        rows: each video with its label, None without one.
        classes: names of the bundle's classes.
    """
    known = {None, *classes}
    unknown = [(video, label) for video, label in rows if label not in known]
    if not unknown:
        return
    video, label = unknown[0]
    shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
    one = len(unknown) == 1
    LOG.warning(
        f"{len(unknown)} {'label' if one else 'labels'} of the list {'is not a class' if one else 'are not classes'} of "
        f"the bundle, first {label!r} of '{video}': {'it counts' if one else 'they count'} as wrong. Expected one of the "
        f"{len(classes)} classes {shown}"
    )
