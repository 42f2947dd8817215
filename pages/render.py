"""Render the templates of all pages and figures; all text in them is escaped, and legible."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .fitting import fitted
from .legible import legible
from .numbers import counted, number, share, significant
from .palette import DARK, LIGHT


def render(template: str, folder: Path | None = None, script: str = "", **values: Any) -> str:
    """Return a filled-in template.

    Args:
        template: its name.
        folder: where it lies; None: beside the others.
        script: JavaScript that the page runs; the only one that its policy lets run.
        values: by name; ``data`` becomes the page's JSON.
    """
    return _environment(folder).get_template(template).render(
        {"data": None, **values, "script": Markup(script), "light": LIGHT, "dark": DARK}
    )  # fmt: skip


def read(name: str) -> str:
    """Return the text of a file beside the templates."""
    return (_FOLDER / name).read_text()


_FOLDER = Path(__file__).parent / "templates"


@cache
def _environment(folder: Path | None) -> Environment:
    folders = [_FOLDER] if folder is None else [folder, _FOLDER]
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(one) for one in folders]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, finalize=_finalize,
    )  # fmt: skip
    environment.filters |= {
        "counted": counted,
        "filename": _filename,
        "fitted": fitted,
        "legible": legible,
        "number": number,
        "share": share,
        "significant": significant,
        "thousands": "{:,}".format,
    }
    environment.globals |= {"policy": _policy}
    return environment


def _finalize(value: Any) -> Any:
    """Make text legible line by line; markup is left alone."""
    return "\n".join(map(legible, value.split("\n"))) if type(value) is str else value


def _filename(path: str) -> str:
    return Path(path).name or path


def _policy(script: str) -> Markup:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'" if script else "'none'")
