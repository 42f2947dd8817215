"""What was found of a data set, and the folder of lists that training, ``calibrate`` and ``classify`` take."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from ...grid.errors import UsageError
from ...grid.storage.files import whole_file
from .clip_list import write_clip_list
from .problem import KINDS, Problem
from .source import Source
from .splits import SPLITS

_NAMED = 5  # problems of a kind that the report names
_ANOTHER = "give another -o"
_MARK = '"dynvid data"'  # in report.json: the folder may be written again


def report_of(source: Source) -> dict[str, Any]:
    """Return what ``dynvid data --json`` prints: counts of every split and every kind of problem, the first five named."""
    by_kind: dict[str, list[Problem]] = defaultdict(list)
    for problem in source.problems:
        by_kind[problem.kind].append(problem)
    splits = {}
    for split, records in source.splits.items():
        count = {kind: sum(one.split == split for one in by_kind[kind]) for kind in ("missing", "unreadable")}
        splits[split] = {
            "listed": source.listed[split],
            "found": source.listed[split] - count["missing"],
            **count,
            "usable": len(records),
            "is_list": bool(records) and all(record.whole_file for record in records),
        }
    return {
        "written_by": "dynvid data",
        "format": source.format,
        "recognised": source.annotations.recognised,
        "videos": str(source.videos.absolute()),
        "classes": len(source.classes),
        "classes_from": source.annotations.classes_from,
        "notes": list(source.annotations.notes),
        "scanned": source.scanned,
        "splits": splits,
        "problems": {
            kind: {
                "count": len(by_kind[kind]),
                "left_out": about.left_out,
                "advice": about.advice,
                "first": [problem._asdict() for problem in by_kind[kind][:_NAMED]],
            }
            for kind, about in KINDS.items()
            if by_kind[kind]
        },
    }


def require_folder(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UsageError: If it is not empty and no report of an earlier call lies in it.
    """
    report = folder / "report.json"
    if folder.is_dir() and any(folder.iterdir()) and not (report.is_file() and _MARK in report.read_text("utf-8")):
        raise UsageError(f"-o '{folder}' holds other files: give a new folder, or one that 'dynvid data' wrote")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o '{folder}' is a file: give a folder")


def write_folder(source: Source, folder: Path) -> None:
    """Write ``classes.txt``, a list for each split, ``problems.csv``, and ``report.json`` last.

    Raises:
        UsageError: As ``require_folder``.
        ResourceError: If it cannot be written.
    """
    require_folder(folder)
    as_map = all(re.match(r"\d+[\s,;:]", name) for name in source.classes)  # else '5 km run' would be number 5
    lines = [f"{number} {name}\n" if as_map else f"{name}\n" for number, name in enumerate(source.classes)]
    _write(folder / "classes.txt", "".join(lines))
    for split in SPLITS:
        if source.splits.get(split):
            write_clip_list(folder / f"{split}.csv", source.splits[split])
        else:
            (folder / f"{split}.csv").unlink(missing_ok=True)  # of an earlier call
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Problem._fields)
    writer.writerows(source.problems)
    _write(folder / "problems.csv", text.getvalue())
    _write(folder / "report.json", json.dumps(report_of(source), indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    with whole_file(path, "file", _ANOTHER) as file:
        file.write(text.encode())
