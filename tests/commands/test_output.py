"""What commands print besides their results: tables that no pipe breaks, and the step at work."""

import io
import logging

import pytest
from click.testing import CliRunner
from rich.console import Console

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
