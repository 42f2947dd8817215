"""A report on the disk: JSON, CSV, a trace of the launches and a page, in one folder."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...grid.errors import ResourceError, UsageError
from ...grid.storage.files import read_file, whole_file
from ...grid.storage.strict_json import StrictJsonError, dumps, loads
from ..simulation import cost_tables
from .page import page
from .report import FORMAT, Estimate, OperatingPoint, Report

JSON = "report.json"
LOGS = "loadgen"
"""Folder of the referee's logs in that of a report."""


def write_report(report: Report, folder: Path) -> None:
    """Write a report's files, each of them whole or not at all; those of an earlier report are replaced.

    ``report.json`` holds all figures, null where one is not a number; ``points.csv`` an operating point a row;
    ``table.csv`` t_k(n), segment 0 being the static run, and ``cost_table.json`` its medians for the simulator; ``samples.csv`` every measurement; ``trace.json`` the launches,
    for ui.perfetto.dev; ``report.html`` the page.

    Args:
        report: what was found.
        folder: made if it is not there.

    Raises:
        UsageError, ResourceError: As ``require_report_folder``; also if the disk is full.
    """
    files = {
        JSON: dumps(_finite(report.to_json())),
        "points.csv": _csv(_points(report)),
        "table.csv": _csv(_table(report)),
        "cost_table.json": dumps(_cost_table(report)),
        "samples.csv": _csv([["contestant", "round", "clip", "exit", "ms"], *report.samples]),
        "trace.json": json.dumps(_trace(report), allow_nan=False).encode(),
        "report.html": page(report).encode(),
    }
    require_report_folder(folder)
    for name, content in files.items():  # the JSON first: it is what an earlier report is known by
        with whole_file(folder / name, "report", "give another -o") as file:
            file.write(content)


def require_report_folder(folder: Path) -> None:
    """Make the folder of a report, or make sure that it may be written to; to be asked before anything is measured.

    Raises:
        UsageError: If it is no folder, or holds other things than a report.
        ResourceError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(
            path.name for path in folder.iterdir() if path.name != LOGS and not path.name.startswith(f".{JSON}.")
        )
    except FileExistsError:
        raise UsageError(f"{str(folder)!r} is a file, expected a folder for the report: give another -o") from None
    except OSError as error:
        raise ResourceError(
            f"report folder {str(folder)!r} cannot be made ({error.strerror}): give another -o"
        ) from None
    if held and not _is_report(folder / JSON):
        raise UsageError(
            f"folder {str(folder)!r} holds {held[0]!r} and no report: expected an empty one, or an earlier report. Give another -o."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResourceError(f"report folder {str(folder)!r} is not writable: give another -o, or make it so")


def _is_report(path: Path) -> bool:
    try:
        found = loads(read_file(path))
    except (OSError, StrictJsonError):
        return False
    return isinstance(found, dict) and str(found.get("format")).startswith("dynvid.bench/")


def _finite(value: Any) -> Any:
    """Return JSON without numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _points(report: Report) -> list[list[Any]]:
    rows = [_point(point) for point in report.points]
    names = list(dict.fromkeys(name for row in rows for name in row))  # the static network has no exits
    return [names, *([row.get(name) for name in names] for row in rows)]


def _point(point: OperatingPoint) -> dict[str, Any]:
    found = point.latency
    row = {"name": point.name, "q": point.q, "gmacs": point.gmacs, "paper_gmacs": point.paper_gmacs}
    row |= {"fraction": point.fraction, **_interval("accuracy", point.accuracy)}
    row |= {**_interval("agreement", point.agreement), "videos": found.videos, **_interval("mean_ms", found.mean_ms)}
    row |= {"p50_ms": found.p50_ms, "p90_ms": found.p90_ms, "p99_ms": found.p99_ms}
    row |= {"offline_videos_per_s": point.offline_videos_per_s}
    row |= {f"threshold_{k}": threshold for k, threshold in enumerate(point.thresholds, 1)}
    row |= {f"share_{k}": part for k, part in enumerate(point.shares, 1)}
    for k, by_exit in enumerate(point.exit_latency, 1):
        row |= _interval(f"exit_{k}_mean_ms", None if by_exit is None else by_exit.mean_ms)
        row |= {f"exit_{k}_{p}_ms": getattr(by_exit, f"{p}_ms", None) for p in ("p50", "p90", "p99")}
    return row


def _interval(name: str, found: Estimate | None) -> dict[str, float | None]:
    values = (None, None, None) if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _table(report: Report) -> list[list[Any]]:
    rows = [[t.index, t.batch, t.median_ms, t.p25_ms, t.p75_ms, t.median_ms / t.batch] for t in report.table]
    return [["segment", "batch", "median_ms", "p25_ms", "p75_ms", "median_ms_per_video"], *rows]


def _cost_table(report: Report) -> dict[str, Any]:
    """Return t_k(n) as ``cost_tables.read_table`` reads it."""
    rows: dict[int, list[tuple[int, float]]] = {}
    for entry in sorted(report.table, key=lambda e: (e.index, e.batch)):
        rows.setdefault(entry.index, []).append((entry.batch, entry.median_ms))
    static = rows.pop(0, [])
    return {"format": cost_tables.FORMAT, "segments": list(rows.values()), "static": static}


def _trace(report: Report) -> dict[str, Any]:
    """Return the launches as trace events: a process a run, a thread a segment, microseconds."""
    runs = list(dict.fromkeys(launch.run for launch in report.launches))
    tracks = sorted({(runs.index(launch.run) + 1, launch.segment) for launch in report.launches})
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": name}}
        for pid, name in enumerate(runs, 1)
    ]
    events += [
        {"name": "thread_name", "ph": "M", "pid": pid, "tid": segment, "args": {"name": f"segment {segment}"}}
        for pid, segment in tracks
    ]
    for launch in report.launches:
        start, end = round(launch.start_ms * 1e3, 3), round((launch.start_ms + launch.ms) * 1e3, 3)
        events.append(
            {
                "name": f"segment {launch.segment} x {len(launch.rows)}", "ph": "X", "pid": runs.index(launch.run) + 1,
                "tid": launch.segment, "ts": start, "dur": round(end - start, 3), "args": {"rows": list(launch.rows)},
            }
        )  # fmt: skip
    where = f"{report.setting.network} on {report.setting.backend}"
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"format": FORMAT, "run": where},
    }
