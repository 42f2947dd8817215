"""What commands print: tables, records and progress."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..grid.errors import UsageError
from ..grid.storage.files import require_writable
from ..pages.legible import legible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task

    from ..calibration.describe import Section
    from ..exporter.engines.build import Row
    from ..grid.bundle import Bundle
    from ..grid.manifest import Manifest


LOG = logging.getLogger("dynvid")
NO_FP16 = "Warning: all blocks stay fp32 in the fp16 set of this network, so fp16 gains nothing: use fp32"

_COUNT = re.compile(r"\b(\d+)/(\d+)\b")
_PLAIN_S = 5.0
_WIDE = 10_000  # columns: rows are not wrapped outside a terminal


class _Shown(logging.Handler):
    """Shows the log's lines: warnings are printed; steps and counts (all lines, if ``everything``) go to ``show``."""

    def __init__(self, show: Callable[[str], None], everything: bool) -> None:
        super().__init__()
        self._show, self._everything = show, everything

    def emit(self, record: logging.LogRecord) -> None:
        """Show one line."""
        line = legible(record.getMessage())
        if record.levelno >= logging.WARNING:
            print(f"Warning: {line}", file=sys.stderr)  # above the bars, which click.echo would miss
        elif self._everything or record.levelno >= logging.INFO or _COUNT.search(line):
            self._show(line)


@contextmanager
def steps() -> Iterator[None]:
    """Show what is being done on standard error: N/M as a bar with rate and remaining time, anything else as a line.

    On a terminal it disappears afterwards, and what is printed by ``say`` meanwhile stands above it. Elsewhere a line is
    printed every ``_PLAIN_S`` seconds, so that a log shows progress. Inside ``every_line``, this shows nothing more.
    """
    from rich.console import Console

    if LOG.handlers:
        yield
        return
    console = Console(stderr=True)
    with _bars(console) if console.is_terminal else _lines(_PLAIN_S) as show, _shown(show):
        yield


def say(line: str) -> None:
    """Print a line of the result; on a terminal above the bars, if there are any."""
    if sys.stdout.isatty():
        print(line)  # above the bars, which click.echo would miss
    else:
        click.echo(line)


@contextmanager
def every_line() -> Iterator[None]:
    """Print every line of the log on standard error, with the seconds since the start."""
    with _lines(0.0) as show, _shown(show, everything=True):
        yield


@contextmanager
def _shown(show: Callable[[str], None], everything: bool = False) -> Iterator[None]:
    handler, level = _Shown(show, everything), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


@contextmanager
def _lines(every_s: float) -> Iterator[Callable[[str], None]]:
    said = begun = time.monotonic()

    def show(line: str) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= every_s:
            said = now
            click.echo(f"{now - begun:.0f} s: {line}", err=True)

    yield show


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g}/s" if task.speed and task.total else "")

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
    # what is printed goes above the bars, but not to them where it goes into a file
    above = sys.stdout.isatty()
    with Progress(
        *columns, Rate(""), TimeRemainingColumn(), console=console, transient=True, redirect_stdout=above
    ) as progress:
        task, kind = progress.add_task("starting", total=None), ""

        def show(line: str) -> None:
            nonlocal task, kind
            counted = _COUNT.search(line)
            before, after = (line[: counted.start()], line[counted.end() :]) if counted else ("", "")
            now = (before or after).split(",")[0]  # the thing being counted; what follows a comma may change
            if now != kind:
                progress.remove_task(task)
                task, kind = progress.add_task("", total=None), now
            if counted:
                done, total = int(counted[1]), int(counted[2])
                progress.update(task, description=(before.rstrip() + after).strip(), completed=done, total=total)
            else:
                progress.update(task, description=line)

        yield show


def require_own(option: str, path: Path | None, what: str, mark: bytes) -> None:
    """Refuse before the work what cannot be written, and to replace a file that is something else, such as a LIST.

    Args:
        option: that names the file.
        path: the file; None, or a missing or empty one, is fine.
        what: what it may be, for the message.
        mark: bytes that such a file has in its first MiB.

    Raises:
        UsageError: If the file has other contents.
        ResourceError: If it cannot be written.
    """
    if path is None:
        return
    require_writable(path, option, "give another")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(1 << 20)
        if start and mark not in start:
            raise UsageError(f"{option} {str(path)!r} exists and is not {what}: give another, or remove it")


def require_apart(option: str, path: Path, other: str, *others: Path) -> None:
    """Refuse to write two things to one place, also where a link leads there.

    Raises:
        UsageError: If ``path`` is one of the ``others``.
    """
    if path.resolve() in {place.resolve() for place in others}:
        raise UsageError(f"{other} and {option} are both written to {str(path)!r}: give two places")


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of aligned columns; on a terminal as wide as that, elsewhere each row a line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        shown.add_column(Text(name), overflow="fold")  # nothing is cut off
    for row in rows:
        shown.add_row(*map(Text, row))
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    with console.capture() as written:
        console.print(shown)
    for line in written.get().splitlines():
        click.echo(line.rstrip())


def print_engines(rows: Sequence[Row]) -> None:
    """Print one line per engine, and a total."""
    lines = []
    for row in rows:
        found = row.engine
        census = [
            f"{count} {kind.replace('_', ' ')} {dtype}"
            for kind in ("convolution", "matrix_multiply")
            for dtype, count in (found.dtype_census[kind] if found else {}).items()
        ]
        lines.append(
            [
                row.subgraph,
                row.precision,
                " ".join(row.targets) or ("any" if row.flavour in ("onnxruntime", "openvino") else "sm80 and later"),
                row.status,
                f"{found.seconds:.1f}" if found else "-",
                f"{found.plan_bytes / 1e6:.2f}" if found else "-",
                ", ".join(census) or "-",
            ]
        )
    print_table(["engine", "precision", "targets", "status", "seconds", "MB", "computed in"], lines)
    size = sum(row.engine.plan_bytes for row in rows if row.engine) / 1e6
    click.echo(f"{sum(row.engine is not None for row in rows)} of {len(rows)} engines, {size:.1f} MB")


def print_proof(bundle: Bundle, proof: dict[str, Any] | None, as_json: bool) -> None:
    """Print the contents of a bundle, and the figures of its proof."""
    manifest = bundle.manifest
    files = [v for s in manifest.subgraphs for v in s.variants.values()]
    if as_json:
        summary = {"bundle": str(bundle.root), "bundle_sha256": bundle.sha256, "files": len(files)}
        click.echo(json.dumps({**summary, "bytes": sum(v.bytes for v in files), "proof": proof}))
        return
    for precision in manifest.precisions if proof is not None else ():
        assert proof is not None
        figures = proof[precision]
        if precision == "int8":
            print_int8(figures)
            continue
        rows = [
            [str(c.index), str(c.cell), name, f"{error:.1e}", f"{bound:.1e}"]
            for c, name, error, bound in zip(
                manifest.route.checkpoints, manifest.heads, figures["checkpoints"], figures["bounds"], strict=True
            )
        ]
        click.echo(f"{precision}: difference from PyTorch, in standard deviations of the logits")
        print_table(["checkpoint", "cell", "head", "difference", "at most"], rows)
    if proof is not None:
        sees, skipped = proof["sees"], proof.get("does_not_apply", {})
        lost = f"losing any of {sees['states']} states changes logits by at least {sees['least_effect']}, "
        reversing = f"reversing time {'changes logits ' if skipped else ''}by {sees['frames_reversed']}"
        required = "not required" if "frames reversed" in skipped else f"required: {sees['required']:g}"
        click.echo(f"sensitivity: {'' if skipped else lost}{reversing} ({required})")
        if skipped:
            reasons = "; ".join(f"{what} ({why})" for what, why in skipped.items())
            click.echo(f"static, so these proofs do not apply: {reasons}")
    for name, why in (proof or {}).get("fp32_only", {}).items():
        click.echo(f"{name} stays fp32: {why['because']} {why['value']}, limit {why['limit']:g}")
    if proof is not None and "fp16" in manifest.precisions and not manifest.gains_by_fp16:
        click.echo(NO_FP16, err=True)
    size = sum(v.bytes for v in files) / 1e6
    click.echo(
        f"{bundle.root}: {_name(manifest)}, {len(files)} files, {size:.1f} MB, as exported (sha256 {bundle.sha256[:12]}…)"
    )


def _name(manifest: Manifest) -> str:
    options = manifest.network["options"]
    shown = [f"{key} {options[key]}" for key in ("layers", "stride_in_1x1", "dilated") if options.get(key)]
    form = f" ({', '.join(shown)})" if shown else ""
    return f"{manifest.network['network']}{form}, {manifest.classes} classes{', static' if manifest.static else ''}"


def print_int8(figures: dict[str, Any]) -> None:
    """Print the proof of a bundle's INT8 set."""
    click.echo(f"int8, as calibrated: {figures['videos']} videos at every checkpoint, against fp32")
    columns = {
        "accuracy": figures.get("accuracy"),
        "in fp32": figures.get("accuracy_fp32"),
        "drop": figures["drop"],
        "classes agree": figures["agreement"],
    }
    known = {name: values for name, values in columns.items() if values is not None}
    rows = [[str(k), *(f"{value:.2%}" for value in row)] for k, row in enumerate(zip(*known.values(), strict=True), 1)]
    print_table(["checkpoint", *known], rows)
    at = figures["agreement_at_q"]
    click.echo(
        f"q = {at['q']:g}: exits agree for {at['exits']:.2%}, mean GMACs {at['mean_gmacs']:.4g} instead of "
        f"{at['mean_gmacs_fp32']:.4g}"
    )
    kept, all_ = (sum(n) for n in (map(len, figures["fp32_layers"].values()), figures["layers"].values()))
    names = ", ".join(f"{cell} {layer}" for cell, layers in figures["fp32_layers"].items() for layer in layers)
    click.echo(f"{kept} of {all_} convolutions stay in fp32{': ' + names if names else ''}")


def print_record(record: dict[str, Any], header: bool) -> bool:
    """Print one record, after the header if it is due; return whether the header is still due.

    On a terminal a row takes one line, and names are shortened to fit it.
    """
    if record["checkpoint"] is None:
        print(f"Error: {legible(record['error'])}", file=sys.stderr)  # above the bars
        return header
    names, label_width = 32, 16
    if sys.stdout.isatty():
        room = max(shutil.get_terminal_size().columns - 61, 24)
        names, label_width = min(names, room - room // 3), min(label_width, room // 3)
    form = f"{{:<{names}}} {{:<{label_width}}} {{:>5}} {{:>10}} {{:>8}} {{:>9}} {{:>8}} {{:>9}}"
    if header:
        titles = ("video", "label", "conf.", "checkpoint", "GMACs", "of static", "ms", "decode ms")
        say(form.format(*titles))
    confidence = "-" if record["confidence"] is None else f"{record['confidence']:.3f}"
    figures = [
        f"{record['gmacs']:.3f}",
        f"{record['fraction']:.1%}",
        f"{record['latency_ms']:.1f}",
        f"{record['decode_ms']:.1f}",
    ]
    name, label = _last(legible(record["video"]), names), _first(legible(record["label"] or "-"), label_width)
    say(form.format(name, label, confidence, record["checkpoint"], *figures))
    notes = "; ".join(record["warnings"]) or ("numeric error: NaN or infinity" if record["status"] != "ok" else "")
    if notes:
        say(f"  {legible(notes)}")
    for index, logits in enumerate(record.get("logits", []), 1):
        say(f"  checkpoint {index}: " + " ".join("none" if z is None else f"{z:.4f}" for z in logits))
    return False


def _last(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[1 - width :]


def _first(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def print_sections(sections: Iterable[Section]) -> None:
    """Print lines and tables."""
    for section in sections:
        if section.line:
            click.echo(section.line)
        if section.rows:
            print_table(section.names, section.rows)
