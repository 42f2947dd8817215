"""A report as one HTML page that needs nothing else: no network, no JavaScript; style and plots are inside."""

from __future__ import annotations

from pathlib import Path

from ...pages.render import render
from . import tables
from .plots import svg
from .report import Report

_VERDICTS = {"met": "good", "VALID": "good", "missed": "bad", "INVALID": "bad", "ABORTED": "bad"}


def page(report: Report) -> str:
    """Return the page, as ``page.html.jinja`` lays it out; all text of the report is escaped."""
    return render("page.html.jinja", Path(__file__).parent, report=report, tables=tables, plot=svg, verdicts=_VERDICTS)
