"""The command line as a user types it, in this process or in one of its own."""

import io
import subprocess
import sys

import pytest

from dynvid.cli import main


def dynvid(*arguments):
    """Return what ``dynvid`` printed, and its exit code: of ``main`` itself, for a process loads torch for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        for name, value in (("argv", ["dynvid", *map(str, arguments)]), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess(arguments, ended.value.code or 0, stdout, stderr)


def process(*arguments, **options):
    """Return a finished ``dynvid`` process."""
    command = [sys.executable, "-m", "dynvid.cli", *map(str, arguments)]
    return subprocess.run(command, text=True, stdin=subprocess.DEVNULL, **{"capture_output": True, **options})


def ok(*arguments):
    done = dynvid(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(code, *arguments):
    """Return the message of a command that must end with ``code``, one line, no traceback."""
    done = dynvid(*arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert lines, done.stderr
    return lines[-1]
