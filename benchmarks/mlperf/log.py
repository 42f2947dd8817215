"""Read the logs of one MLPerf LoadGen run: its verdict and figures, and the answers that it logged while measuring.

Figures come from the ``:::MLLOG`` lines of the detail log, each of which is JSON; the summary is for people.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

DETAIL = "mlperf_log_detail.txt"
ACCURACY = "mlperf_log_accuracy.json"
ANSWER = struct.Struct("<ii")
"""An answer in LoadGen's format: class index (-1: numeric error) and exit (1-based)."""

_LINE = ":::MLLOG "
_RATES = ("result_samples_per_second", "result_completed_samples_per_sec", "result_qps_with_loadgen_overhead")


class LogError(ValueError):
    """A log lacks what a finished run writes."""


class Logged(NamedTuple):
    """One answer in the accuracy log: the clip's number, the class (-1: numeric error), the exit (1-based)."""

    clip: int
    class_index: int
    exit: int


@dataclass(frozen=True)
class LoadGenVerdict:
    """LoadGen's result for one run.

    Attributes:
        validity: ``VALID`` or ``INVALID``.
        reason: all reasons that it gives, and errors that it logged; None if there are none.
        samples: number of samples issued and completed.
        samples_per_s: samples completed per second.
        mean_ms, p50_ms, p90_ms, p99_ms: of the latencies, from issue (Server: from schedule) to completion.
    """

    validity: str
    reason: str | None
    samples: int
    samples_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


def read_verdict(folder: Path) -> LoadGenVerdict:
    """Return the verdict of the run with its logs in ``folder``.

    Raises:
        LogError: If it is missing or incomplete.
    """
    found = _read_detail(folder / DETAIL)

    def last(*keys: str) -> Any:
        for key in keys:
            if key in found:
                return found[key][-1]
        raise LogError(f"{DETAIL} has no {keys[0]}")

    def ms(name: str) -> float:
        return float(last(f"result_{name}_latency_ns")) / 1e6

    reasons = list(found.get("result_invalid_reason", []))
    if found.get("early_stopping_met", [True])[-1] is False:
        reasons += found.get("early_stopping_result", [])
    if errors := last("num_errors"):
        reasons.append(f"{errors} errors in {DETAIL}")
    return LoadGenVerdict(
        validity=str(last("result_validity")),
        reason=" ".join(" ".join(map(str, reasons)).split()) or None,
        samples=int(last("result_query_count")) * int(last("generated_samples_per_query")),
        samples_per_s=float(last(*_RATES)),
        mean_ms=ms("mean"),
        p50_ms=ms("50.00_percentile"),
        p90_ms=ms("90.00_percentile"),
        p99_ms=ms("99.00_percentile"),
    )


def read_answers(folder: Path) -> list[Logged]:
    """Return the answers that were logged while performance was measured.

    Raises:
        LogError: If the log is missing or incomplete.
    """
    try:
        entries = json.loads((folder / ACCURACY).read_bytes())
        return [Logged(int(e["qsl_idx"]), *ANSWER.unpack(bytes.fromhex(e["data"]))) for e in entries]
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise LogError(f"{ACCURACY} cannot be read ({error!r})") from None


def _read_detail(path: Path) -> dict[str, list[Any]]:
    """Return the values of every key, in the order in which they were logged."""
    found: dict[str, list[Any]] = {}
    try:
        lines = path.read_text().splitlines()
        entries = [json.loads(line.removeprefix(_LINE)) for line in lines if line.startswith(_LINE)]
        for entry in entries:
            found.setdefault(entry["key"], []).append(entry["value"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LogError(f"{path.name} cannot be read ({error!r})") from None
    return found
