"""``dynvid build-engines``: a bundle's engines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..commands import PATH, PRECISIONS, Command, rare
from ..grid.bundle import Bundle
from ..grid.errors import UsageError
from ..grid.manifest import Precision
from .output import NO_FP16, print_engines, steps


@click.command("build-engines", cls=Command)
@click.argument("bundle", type=PATH)
@click.option(
    "--precision", type=PRECISIONS, help="Precision of the engines; bf16 and int8-bf16 need OpenVINO.  [default: fp32]"
)
@click.option("--fp16", is_flag=True, help="Short for --precision fp16.")
@click.option("--int8", is_flag=True, help="Short for --precision int8: the INT8 graphs from 'dynvid quantize'.")
@click.option(
    "--backend",
    type=click.Choice(["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"]),
    default="tensorrt-rtx",
    show_default=True,
    help="tensorrt builds on its target GPU; tensorrt-rtx builds anywhere; onnxruntime and openvino prepare fused "
    "segments for a CPU.",
)
@click.option("--target", help="For tensorrt-rtx: such as sm86,sm89, or current.  [default: Ampere and later]")
@click.option("--max-batch", type=int, default=1, show_default=True, help="For TensorRT: most videos in one call.")
@rare("--only", help="Names of subgraphs and segments, such as block0,segment1,full.  [default: all]")
@rare("--engines", type=PATH, help="Folder of the engines.  [default: BUNDLE.engines]")
@rare("--workers", type=int, default=1, show_default=True, help="Parallel builds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per engine.")
def build_engines(
    bundle: Path, precision: Precision | None, fp16: bool, int8: bool, backend: str, target: str | None,
    max_batch: int, only: str | None, engines: Path | None, workers: int, as_json: bool,
) -> None:  # fmt: skip
    """Build BUNDLE's engines: one per segment, one for the static network, and for TensorRT one per unique subgraph."""
    from ..api import build_engines as run_build

    if (precision is not None) + fp16 + int8 > 1:
        raise UsageError("--precision, --fp16 and --int8 exclude one another: give one, since each builds its own set")
    chosen: Precision = precision or ("fp16" if fp16 else "int8" if int8 else "fp32")
    with steps():
        rows = run_build(
            bundle,
            backend=backend,
            precision=chosen,
            engines=engines,
            targets=_names(target),
            max_batch=max_batch,
            only=_names(only) or None,
            workers=workers,
        )
    if chosen == "fp16" and not Bundle.open(bundle).manifest.gains_by_fp16:
        click.echo(NO_FP16, err=True)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row.to_json()))
    else:
        print_engines(rows)
    for row in rows:
        if row.error is not None:
            click.echo(f"Error: {row.subgraph}: {row.error}", err=True)
    from ..exporter.engines.build import exit_code

    if code := exit_code(rows):
        sys.exit(code)


def _names(text: str | None) -> list[str]:
    return [name for name in (text or "").replace(",", " ").split() if name]
