"""What commands print besides their results: tables that no pipe breaks, and the step at work."""

import contextlib
import fcntl
import io
import logging
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest
from click.testing import CliRunner
from command_line import process
from rich.console import Console
from samples import write_noise

from dynvid.cli import cli
from dynvid.commands import output as terminal

LOG = logging.getLogger("dynvid")


def test_a_row_is_one_line_however_long_and_brackets_stay(capsys):
    terminal.print_table(["name", "what"], [["a" * 300, "[bold]2[/bold]"], ["b", "c"]])
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines] == [300 + 2 + 4, 300 + 2 + 14, 300 + 2 + 1]
    assert lines[1].endswith("  [bold]2[/bold]") and lines[0].startswith("name ")


def test_without_a_terminal_a_line_is_printed_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.steps():
        for line in ("one", "2/9 videos", "three", "4/9 videos"):
            LOG.info(line)
    assert capsys.readouterr().err.splitlines() == ["6 s: 2/9 videos", "12 s: 4/9 videos"]


def test_steps_counts_and_warnings_are_shown_and_details_only_with_verbose(capsys, monkeypatch):
    def said(shown):
        with shown:
            LOG.info("a step")
            LOG.debug("2/9 videos")
            LOG.debug("a detail")
            LOG.warning("a warning")
        LOG.info("after it")
        return capsys.readouterr().err.splitlines()

    monkeypatch.setattr(terminal, "_PLAIN_S", 0.0)
    assert said(terminal.steps()) == ["0 s: a step", "0 s: 2/9 videos", "Warning: a warning"]
    with terminal.every_line():
        assert said(terminal.steps()) == [
            "0 s: a step",
            "0 s: 2/9 videos",
            "0 s: a detail",
            "Warning: a warning",
            "0 s: after it",
        ]
    assert not LOG.handlers and LOG.level == logging.NOTSET


def test_verbose_comes_before_the_command(tiny_bundle):
    plain, verbose = (
        CliRunner().invoke(cli, [*v, "time", str(tiny_bundle.root), "--rounds", "5"]) for v in ([], ["-v"])
    )
    assert "measuring" not in plain.stderr and verbose.stderr.splitlines()[0] == "0 s: measuring the segments"


def on_a_terminal(*arguments, columns=100):
    """Return the lines that a command leaves on a terminal of this width, escapes removed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "dynvid.cli", *map(str, arguments)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 65536):
            written += part
    child.wait()
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode()).replace("\r\n", "\n").split("\n")
    return [line.split("\r")[-1] for line in lines]


def test_on_a_terminal_rows_stand_above_the_bar_and_fit(tiny_bundle, tmp_path):
    write_noise(tmp_path, 2)
    for name in ("a\nb", "n" * 200):
        shutil.copy(tmp_path / "0.npy", tmp_path / f"{name}.npy")
    videos = sorted(tmp_path.glob("*.npy"))
    lines = on_a_terminal("classify", tiny_bundle.root, *videos, tmp_path / "none.mp4")
    rows = [line for line in lines if re.search(r"\.npy +[a-e] +0\.\d{3} +4 ", line)]
    assert len(rows) == 4 and not [row for row in rows if len(row) > 100 or row.startswith(" ")]
    assert [row for row in rows if r"a\nb.npy" in row] and [row for row in rows if row.startswith("…nnn")]
    assert not [row for row in rows if "videos" in row]  # the bar sticks to none
    bars = [line for line in lines if "videos, exits" in line]
    assert bars and any("1 failed" in line for line in bars)


def test_into_a_pipe_names_are_whole_lines_and_nothing_is_drawn(tiny_bundle, tmp_path):
    write_noise(tmp_path, 1)
    shutil.copy(tmp_path / "0.npy", tmp_path / "a\nb.npy")
    done = process("classify", tiny_bundle.root, tmp_path / "a\nb.npy")
    assert len(done.stdout.splitlines()) == 2 and "exits" not in done.stderr


def test_what_follows_a_comma_does_not_begin_another_bar():
    out = io.StringIO()
    with terminal._bars(Console(file=out, force_terminal=True, width=120)) as step:
        for line in ("1/8 videos, exits 1", "2/8 videos, exits 1 1", "8/8 videos, exits 4 3, 1 failed"):
            step(line)
    assert "videos, exits 4 3, 1 failed" in out.getvalue() and "8/8" in out.getvalue()


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["fusing segment1"], ["fusing segment1"]),
        (["1/8 videos scored", "3/8 videos scored"], ["videos scored", "3/8"]),
        (["exporting fp32 2/6: block1", "exporting fp32 5/6: head1"], ["exporting fp32: head1", "5/6"]),
        (["7/8 videos scored", "choosing thresholds"], ["choosing thresholds"]),
    ],
)
def test_on_a_terminal_what_is_counted_is_a_bar(lines, shown):
    out = io.StringIO()
    with terminal._bars(Console(file=out, force_terminal=True, width=120)) as step:
        for line in lines:
            step(line)
    for text in shown:
        assert text in out.getvalue()
