"""Score a bundle on a LIST of videos: streamed, stored, and resumed after a crash.

Videos are decoded one at a time, run to the end of the route, and written to a journal. The scores are sorted by the
sha256 of the videos' files. So nothing depends on the order of the list, or on where an earlier run was interrupted.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...grid.bundle import Bundle
from ...grid.errors import InputRefusedError, ListError, ScoresError, StaleScoresError
from ...grid.manifest import Manifest
from ...runtime.session import Session
from ...runtime.video.decoder import Decoder
from ...runtime.video.listing import ListedVideo
from .journal import Journal
from .scores import Scores, read_scores

LOG = logging.getLogger("dynvid")


def score_videos(session: Session, videos: Sequence[ListedVideo], keep: Path | None, decoder: Decoder) -> Scores:
    """Return the scores of every exit for the videos of a list, sorted by the sha256 of their files.

    Args:
        session: the bundle on a backend; its thresholds are not used.
        videos: rows of the list; either all have a label or none has.
        keep: the ``.npz`` that the scores are read from if it exists, and otherwise written to; None: the default,
            beside the bundle.
        decoder: of the videos.

    Raises:
        ListError: If a label is not a class, only some rows have one, or one content has two labels.
        StaleScoresError: If ``keep`` holds the scores of something else.
        ScoresError: If no video gives an answer.
        InputRefusedError, ResourceError, BackendError: If reading, writing or running fails.
    """
    bundle = session.executor.bundle
    manifest = bundle.manifest
    labels_of = dict(zip(videos, class_labels(videos, manifest), strict=True))
    files = by_content(videos)
    videos, labels = list(files.values()), [labels_of[video] for video in files.values()]
    belongs_to = _belongs_to(session, list(files), labels)
    keep = keep or scores_file(bundle, belongs_to)
    if keep.exists():
        kept = read_scores(keep)
        if kept.belongs_to != belongs_to:
            differs = sorted(k for k in belongs_to if kept.belongs_to.get(k) != belongs_to[k])
            raise StaleScoresError(
                f"scores {str(keep)!r} belong to another {', '.join(differs)}: give another --scores, or remove them"
            )
        return kept
    shape = (len(session.route.cells), manifest.classes)
    digest, body = 32, 4 * shape[0] * shape[1]
    journal_path = keep.with_name(keep.name + ".journal")
    with Journal(journal_path, belongs_to, digest + body) as journal:
        done = {record[:digest].hex(): record[digest:] for record in journal.records}
        for index, (name, video) in enumerate(files.items(), 1):
            if name not in done:
                done[name] = _score(session, video.path, decoder, shape)
                journal.append(bytes.fromhex(name) + done[name])
            LOG.debug(f"{index}/{len(videos)} videos scored")
        label_of = dict(zip(files, labels, strict=True))
        answers = {name: np.frombuffer(done[name], np.float32).reshape(shape) for name in sorted(files)}
        failed = tuple(name for name, answer in answers.items() if np.isnan(answer).any())
        good = [name for name in answers if name not in set(failed)]
        if not good:
            raise ScoresError(
                f"none of {len(videos)} videos gave an answer: run 'dynvid classify' on one of them to see why"
            )
        scores = Scores(
            np.ascontiguousarray(np.stack([answers[name] for name in good], axis=1)),
            None if None in labels else np.array([label_of[name] for name in good], np.int64),
            np.array([manifest.costs.checkpoint(session.route, k + 1) for k in range(shape[0])], np.float64),
            tuple(good),
            failed,
            belongs_to,
        )
        scores.write(keep)
        journal_path.unlink()
    return scores


def _score(session: Session, path: Path, decoder: Decoder, shape: tuple[int, int]) -> bytes:
    """Return the probabilities of every exit as bytes; all NaN for a video that gives no answer."""
    manifest = session.executor.bundle.manifest
    answer = np.full(shape, np.nan, np.float32)
    try:
        with decoder.open(path, manifest.preprocessing, manifest.grid.num_frames) as source:
            found = np.stack(session.classify(source, trace=True).probabilities)
        if np.isfinite(found).all():
            answer = found
    except InputRefusedError:
        pass  # counted as failed, and reported with its name
    return answer.astype(np.float32).tobytes()


def kept_scores(path: Path, bundle: Bundle) -> Scores:
    """Return scores that ``score_videos`` stored for ``bundle``, without the videos.

    Raises:
        ScoresError: If they cannot be read.
        StaleScoresError: If they belong to another bundle, or come from elsewhere.
    """
    scores = read_scores(path)
    found = str(scores.belongs_to.get("bundle", "none"))
    if found != bundle.sha256:
        raise StaleScoresError(
            f"scores {str(path)!r} belong to bundle {found[:8]}, but this one is {bundle.sha256[:8]}…: give --data "
            "LIST, or the scores without a bundle"
        )
    return scores


def scores_file(bundle: Bundle, belongs_to: dict[str, Any]) -> Path:
    """Return the default place of scores: beside the bundle, named after what they belong to."""
    name = hashlib.sha256(repr(sorted(belongs_to.items())).encode()).hexdigest()[:16]
    return bundle.root.with_name(f"{bundle.root.name}.scores") / f"{name}.npz"


def _belongs_to(session: Session, files: Sequence[str], labels: Sequence[int | None]) -> dict[str, Any]:
    bundle, rows = session.executor.bundle, sorted(zip(files, map(str, labels), strict=True))
    return {
        "bundle": bundle.sha256,
        "route": [list(cell) for cell in session.route.cells],
        "precision": session.executor.precision,
        "backend": session.executor.backend.name,
        "preprocessing": {
            k: list(v) if isinstance(v, tuple) else v for k, v in asdict(bundle.manifest.preprocessing).items()
        },
        "data": hashlib.sha256("".join(f"{name} {label}\n" for name, label in rows).encode()).hexdigest(),
    }


def by_content(videos: Sequence[ListedVideo]) -> dict[str, ListedVideo]:
    """Return the videos by the sha256 of their files, in order. The same content under two names counts once.

    Raises:
        ListError: If a file cannot be read, or two files with the same content have different labels.
    """
    found: dict[str, ListedVideo] = {}
    again: list[str] = []
    for index, video in enumerate(videos, 1):
        try:
            with video.path.open("rb") as file:
                first = found.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), video)
        except OSError as error:
            raise ListError(f"video '{video.path}' cannot be read ({error.strerror}): repair the list") from None
        if first.label != video.label:
            raise ListError(
                f"'{video.path}' is the same file as '{first.path}', but has label {video.label!r}, not "
                f"{first.label!r}: remove the wrong one from the list"
            )
        if first is not video:
            again.append(f"'{video.path}' is '{first.path}'")
        LOG.debug(f"{index}/{len(videos)} files hashed")
    if again:
        LOG.warning(
            f"{len(again)} files of the list occur again under another name, first {again[0]}: each counts once"
        )
    return found


def class_labels(videos: Sequence[ListedVideo], manifest: Manifest) -> list[int | None]:
    """Return the class of every row, by name, or by number if the bundle has no names; all None without labels.

    Raises:
        ListError: If only some rows have a label, or a label is not a class.
    """
    missing = sum(video.label is None for video in videos)
    if missing:
        if missing < len(videos):
            raise ListError(f"{missing} of {len(videos)} rows have no label: label all of them, or none")
        return [None] * len(videos)
    names = manifest.class_names
    index = {name: i for i, name in enumerate(names)}
    unknown = [video for video in videos if video.label not in index]
    if unknown:
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise ListError(
            f"{len(unknown)} labels are not classes of the bundle, first {unknown[0].label!r} of '{unknown[0].path}'; "
            f"expected one of the {len(names)} classes {shown}{_mistaken([str(v.label) for v in videos], manifest)}"
        )
    return [index[str(video.label)] for video in videos]


def _mistaken(labels: Sequence[str], manifest: Manifest) -> str:
    """Return what the labels seem to be, and how to mend them, as the end of a message; empty if that is not known."""
    if all(re.fullmatch(r"[0-9]+\.0*", label) for label in labels):
        return ". They are numbers with a fraction: write 3 for 3.0, in pandas with .astype('Int64')"
    if not all(re.fullmatch(r"[0-9]{1,9}", label) for label in labels):
        return ""
    numbers = [int(label) for label in labels]
    if manifest.labels is not None:
        return ". They are numbers: write the names of the classes, which this bundle has"
    if min(numbers) == 1 and max(numbers) == manifest.classes:
        return f". They run from 1 to {manifest.classes}, but classes are numbered from 0: subtract 1 from each"
    return ""
