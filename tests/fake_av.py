"""A PyAV that differs from the installed one: a module in a folder, to be the first on a path."""

import textwrap
from pathlib import Path

_MODULE = """
import sys

sys.path.remove(FOLDER)
del sys.modules["av"]
import av

sys.path.insert(0, FOLDER)  # for the children of this process
real = av.open
"""


def fake_av(folder: Path, changes: str) -> str:
    """Write a PyAV that is the installed one after ``changes``, where ``av`` is the module and ``real`` its ``open``."""
    module = _MODULE.replace("FOLDER", repr(str(folder))) + textwrap.dedent(changes)
    (folder / "av.py").write_text(module)
    return str(folder)
