"""A PyAV that differs from the installed one: a module in a folder, to be on a path."""

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

_CRASH = """
import os, signal, sys
if "dynvid.runtime.video.decoder_process" in " ".join(sys.orig_argv):
    import av
    real = av.open
    def crash(file, *arguments, **options):
        if NAME in str(file):
            os.kill(os.VICTIM(), signal.SIGNAL)
        return real(file, *arguments, **options)
    av.open = crash
"""


def fake_av(folder: Path, changes: str) -> str:
    """Write a PyAV that is the installed one after ``changes``, where ``av`` is the module and ``real`` its ``open``."""
    module = _MODULE.replace("FOLDER", repr(str(folder))) + textwrap.dedent(changes)
    (folder / "av.py").write_text(module)
    return str(folder)


def crashing_av(folder: Path, name: str, victim: str, signal: str) -> None:
    """Let a decoder that opens a video with ``name`` in its path send a signal, such as SIGSEGV.

    Every Python that has the folder on its path loads it. The victim is ``getpid``, the decoder, or ``getppid``, the
    process that waits for it.
    """
    crash = _CRASH.replace("NAME", repr(name)).replace("VICTIM", victim).replace("SIGNAL", signal)
    (folder / "sitecustomize.py").write_text(crash)
