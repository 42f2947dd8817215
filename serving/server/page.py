"""The page at ``/``: drop a clip, and see where it exits."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from string import Template

from ..service.queue import Service


def page(name: str, service: Service) -> bytes:
    """Return the page for a model of this name."""
    facts = service.facts
    text = files(__package__).joinpath("page.html").read_text()
    # "</" would end the script
    known = {"name": html.escape(name), "json": json.dumps(name).replace("<", "\\u003c")}
    return Template(text).substitute(known, checkpoints=facts.checkpoints if facts else 0).encode()
