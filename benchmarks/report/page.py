"""A report as one HTML page that needs nothing else: no network, no JavaScript; style and plots are inside."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...calibration.drawing import COLOURS
from . import tables
from .plots import svg
from .report import Report

_VERDICTS = {"met": "good", "VALID": "good", "MISSED": "bad", "INVALID": "bad", "ABORTED": "bad"}


def page(report: Report) -> str:
    """Return the page, as ``page.html.jinja`` lays it out; all text of the report is escaped."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return templates.get_template("page.html.jinja").render(
        report=report, tables=tables, plot=svg, colours=COLOURS, verdicts=_VERDICTS
    )
