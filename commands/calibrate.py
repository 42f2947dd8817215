"""``dynvid calibrate``: thresholds, INT8, and drift."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ..grid.errors import InputRefusedError, UsageError
from ..terminal import print_int8, print_sections, steps
from . import PATH
from .packages import packages

if TYPE_CHECKING:
    from ..calibration.scores import Scores
    from ..grid.bundle import Bundle
    from ..grid.manifest import Precision


@click.command()
@click.argument("bundle", type=PATH, required=False)
@click.argument("training_checkpoint", type=PATH, required=False)
@click.option("--data", type=PATH, help="LIST of videos (CSV with the columns 'video' and, if known, 'label').")
@click.option("--scores", type=PATH, help="With --data: where scores are kept. Without: an .npz to take them from.")
@click.option("-o", "--output", type=PATH, help="T.json to write.")
@click.option("--q", type=float, help="Ratio of one exit's share to the share before.")
@click.option("--budget", type=float, help="Mean GMACs a video, or milliseconds with --cost ms.")
@click.option("--max-drop", type=float, help="Largest loss of accuracy (of agreement, without labels).")
@click.option("--confidence", type=float, help="Promise --max-drop with this probability; without it, as seen.")
@click.option("--cost", type=click.Choice(["macs", "ms"]), default="macs", show_default=True, help="What to save.")
@click.option("--cost-table", type=PATH, help="Times of 'python -m dynvid.benchmarks.timing'; else measured now.")
@click.option("--temperature", is_flag=True, help="Fit one temperature a checkpoint; needs labels.")
@click.option("--split", type=float, default=0.5, show_default=True, help="Share of the videos that calibrate; 1: all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split.")
@click.option("--plot", type=PATH, help="SVG of the curve to write.")
@click.option("--check", type=PATH, help="RESULTS.jsonl of 'dynvid classify -o', to compare with --thresholds.")
@click.option(
    "--thresholds",
    type=PATH,
    help="T.json that --check compares with, or that videos leave by while --int8 finds ranges.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Write INT8 twins into a new bundle, and choose thresholds for them; needs --data and TRAINING_CHECKPOINT.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="With --int8: least share of videos that leave where fp32's do; 0.975 by default.",
)
@click.option("--int8-bundle", type=PATH, help="The new bundle; BUNDLE.int8 by default.")
@click.option("--ranges", type=PATH, help="Where ranges are kept; BUNDLE.ranges.json by default.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]),
              help="Of the subgraphs whose answers are scored; fp32 by default, with --int8 the twins.")  # fmt: skip
@click.option("--backend", default="onnxruntime", show_default=True, help="What computes.")
@click.option("--threads", type=int, help="CPU threads to compute with; one a core by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(
    bundle: Path | None, training_checkpoint: Path | None, data: Path | None, scores: Path | None, output: Path | None,
    q: float | None, budget: float | None, max_drop: float | None, confidence: float | None, cost: str,
    cost_table: Path | None, temperature: bool, split: float, seed: int, plot: Path | None, check: Path | None,
    thresholds: Path | None, int8: bool, min_agreement: float | None, int8_bundle: Path | None, ranges: Path | None,
    precision: str | None, backend: str, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Choose thresholds from labelled videos: by q, a budget, a drop of accuracy, or a promise about it."""
    from ..calibration.calibrate import Request
    from ..calibration.calibrate import calibrate as run_calibration
    from ..calibration.describe import describe
    from ..calibration.plot import write_curve
    from ..calibration.scores import read_scores
    from ..calibration.scoring import kept_scores
    from ..calibration.sweep import costs_of
    from ..grid.bundle import Bundle
    from ..grid.thresholds import Thresholds

    opened = None if bundle is None else Bundle.open(bundle)
    if int8 and (confidence is not None or cost == "ms" or check is not None):
        raise UsageError("--int8 with --confidence, --cost ms or --check: they are of fp32, leave them out")
    if check is not None:
        _check_drift(opened, check, thresholds, as_json)
        return
    if data is None and scores is None:
        raise UsageError("calibrate needs BUNDLE and --data LIST, or --scores FILE.npz")
    if opened is None and (data or output or cost == "ms"):
        raise UsageError("--data, -o and --cost ms need a BUNDLE: thresholds and times belong to one")
    if int8 and (opened is None or data is None or training_checkpoint is None):
        raise UsageError("--int8 needs BUNDLE, its TRAINING_CHECKPOINT and --data LIST")
    if precision is not None and (int8 or data is None):
        raise UsageError(f"--precision {precision} with --int8, or without --data: leave it out, scores say theirs")
    if precision not in (None, "fp32") and cost == "ms":
        raise UsageError(f"--precision {precision} with --cost ms: times are measured in fp32, give --budget in GMACs")
    if int8 and backend != "onnxruntime":
        raise UsageError(f"--int8 --backend {backend}: INT8 is calibrated on onnxruntime, leave --backend out")
    if not int8 and (int8_bundle or ranges or thresholds or min_agreement is not None):
        raise UsageError("--min-agreement, --int8-bundle, --ranges, and --thresholds without --check, belong to --int8")
    if opened is not None and training_checkpoint is not None:
        _require_source(opened, training_checkpoint)
    request = Request(q, budget, max_drop, confidence, "ms" if cost == "ms" else "gmacs", temperature, split, seed)
    ms = None
    with steps() as step:
        if opened is None:
            assert scores is not None
            found = read_scores(scores)
        elif data is None:
            assert scores is not None
            found = kept_scores(scores, opened)
        elif not int8:
            found = _score_list(opened, data, scores, backend, cast("Precision", precision or "fp32"), threads, step)
        else:
            assert training_checkpoint is not None
            with packages("export"):
                from ..exporter.int8 import MIN_AGREEMENT, calibrate_int8

            opened, found = calibrate_int8(
                opened, training_checkpoint, data, int8_bundle or Path(f"{opened.root}.int8"),
                ranges or Path(f"{opened.root}.ranges.json"), scores, threads,
                thresholds, max_drop, MIN_AGREEMENT if min_agreement is None else min_agreement, step,
            )  # fmt: skip
        if opened is not None and cost == "ms":
            if found.belongs_to["precision"] != "fp32":
                raise UsageError(f"--cost ms for scores in {found.belongs_to['precision']}: times are measured in fp32")
            ms = _segment_times(opened, cost_table, backend, threads, step)
        costs = costs_of(found.macs, ms, len(found.probabilities))
        if request.unit not in costs:
            request = replace(request, unit="exits")
        step("choosing thresholds")
        result = run_calibration(found, costs, request)
    if int8:
        assert opened is not None
        result.report["int8"] = {"bundle": str(opened.root), **opened.manifest.proof["int8"]}
        if not as_json:
            print_int8(result.report["int8"])
    if output is not None:
        assert opened is not None
        exits, scored_in = result.exits, found.belongs_to["precision"]
        Thresholds(opened.sha256, exits.thresholds, exits.q, result.temperatures, result.expected, scored_in).write(
            output
        )
    if plot is not None:
        write_curve(plot, result.curve, result.judged, request.unit)
    if as_json:
        click.echo(json.dumps(result.report))
    else:
        print_sections(describe(result.report))
    for warning in result.report["warnings"]:
        click.echo(f"Warning: {warning}", err=True)


def _score_list(
    bundle: Bundle, data: Path, keep: Path | None, backend: str, precision: Precision, threads: int | None,
    step: Callable[[str], None],
) -> Scores:  # fmt: skip
    from ..calibration.scoring import score_videos
    from ..runtime.backends.base import open_backend
    from ..runtime.decoder import Decoder
    from ..runtime.session import Session
    from ..runtime.video_list import read_list

    videos = read_list(data)
    with Decoder() as decoder:
        return score_videos(
            Session(bundle, open_backend(backend, threads), precision=precision), videos, keep, decoder, step
        )


def _segment_times(
    bundle: Bundle, table: Path | None, backend: str, threads: int | None, step: Callable[[str], None]
) -> list[float]:
    from ..benchmarks.timing import measure, read_timing
    from ..runtime.backends.base import open_backend

    if table is not None:
        return read_timing(table, bundle).checkpoint_ms()
    step("measuring the segments")
    return measure(bundle, open_backend(backend, threads), threads).checkpoint_ms()


def _require_source(bundle: Bundle, training_checkpoint: Path) -> None:
    """Check that the bundle was exported from this file: its proved fp32 subgraphs then are the reference."""
    import hashlib

    try:
        with training_checkpoint.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputRefusedError(f"{str(training_checkpoint)!r} cannot be read ({error.strerror})") from None
    if found != bundle.manifest.source_sha256:
        raise InputRefusedError(
            f"{str(training_checkpoint)!r} (sha256 {found[:8]}…) is not what bundle {str(bundle.root)!r} was exported from "
            f"({bundle.manifest.source_sha256[:8]}…): export it, or give the other one"
        )


def _check_drift(bundle: Bundle | None, results: Path, thresholds: Path | None, as_json: bool) -> None:
    from ..calibration.describe import describe_drift
    from ..calibration.drift import check_results
    from ..grid.thresholds import read_thresholds

    if bundle is None or thresholds is None:
        raise UsageError("--check RESULTS.jsonl needs BUNDLE and --thresholds T.json")
    expected = read_thresholds(thresholds, bundle.sha256, len(bundle.manifest.route_cells))
    drift = check_results(results, expected, str(thresholds))
    if as_json:
        click.echo(json.dumps(drift.to_json()))
    else:
        print_sections(describe_drift(drift))
    if drift.drifted:
        click.echo(
            f"Warning: videos leave otherwise than at calibration: distance {drift.exit_distance:.3f} of exits and "
            f"{drift.confidence_distance:.3f} with confidences, where chance explains {drift.exit_chance:.3f} and "
            f"{drift.confidence_chance:.3f}. Calibrate on newer videos.",
            err=True,
        )
