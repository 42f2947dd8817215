import dataclasses

import pytest
from sample_report import bare_report, latency, sample_report

from dynvid.benchmarks.report import tables
from dynvid.benchmarks.report.console import describe
from dynvid.benchmarks.report.report import Estimate, Peer
from dynvid.commands.output import print_sections


@pytest.fixture
def printed(capsys):
    def show(report):
        print_sections(describe(report))
        return [line for line in capsys.readouterr().out.split("\n") if line]

    return show


def flat(lines):
    return [" ".join(line.split()) for line in lines]


def test_tables_say_what_was_measured_and_validity_comes_last(printed):
    lines = flat(printed(sample_report()))
    for line in (
        "msdnet38 on onnxruntime fp32, 2 threads, Example CPU 9000 @ 2.4 GHz: 48 random clips",
        "q = 1.2 9.75 53.6% 96.8% 97.1% 10.9 10.7 to 11.1 10.7 11.9 13.2 124",
        "openvino 2025.2, fp32 19.2 18.8 to 19.6 18.8 20.9 23.2 0.568",
        "flops_realisation 0.953 0.941 to 0.966 >= 0.95 met",
        "scheduler_efficiency 0.932 0.921 to 0.943 >= 0.95 missed",
        "scheduler_efficiency: offline, batch 8, 1,000 videos",
        "boundary copies +0.180 +1.7%",
        "Poisson, 70 % of the oracle re-batched measured 91.2 90.8 – 42.6 71.0 1.02",
        "Server INVALID 5000 83.2 52.0 131 83.9 queries/s, p99 <= 86.0 ms 0 of 500",
        "Server: p99 latency over the bound",
    ):
        assert line in lines, line
    assert lines[-1].startswith("VALID: two copies of the static run differ by 0.62%")
    assert not [line for line in lines if line.startswith("flops_realisation:")]  # a note only where a bar is not met


def test_without_a_terminal_every_row_is_one_whole_line(printed):
    report, long = sample_report(), "a name that goes on and on " * 9
    wide = dataclasses.replace(
        report,
        setting=dataclasses.replace(report.setting, clips=long, faults=(long, long)),
        points=tuple(dataclasses.replace(point, name=long) for point in report.points),
        peers=tuple(dataclasses.replace(peer, name=long) for peer in report.peers),
        ratios=tuple(dataclasses.replace(ratio, note=long) for ratio in report.ratios),
        streams=tuple(dataclasses.replace(run, name=long, policy=long) for run in report.streams),
        scenarios=tuple(dataclasses.replace(run, target=long, reason=long) for run in report.scenarios),
    )
    assert not any("…" in line for line in printed(wide))
    reasons = sum(not run.reason for run in report.scenarios)
    assert len(printed(wide)) == len(printed(report)) + reasons
    assert printed(wide)[-1] == f"NOT VALID: {long}; {long}"


def test_what_is_absent_leaves_no_heading(printed):
    lines = printed(bare_report())
    text = "\n".join(lines)
    assert "elsewhere" not in text and "LoadGen" not in text and "many videos" not in text and "None" not in text
    assert (
        lines[-1]
        == "VALID: two copies of the static run differ by an unknown amount; CPU time of other processes not known"
    )
    assert "split_overhead – – <= 1.00 not measured" in flat(lines)


def test_the_point_is_held_against_the_fastest_peers():
    report = sample_report()
    assert tables.against_peers(report) == (
        "At q = 1.2 a video takes 56.8% (56.1% to 57.4%) of the time on openvino 2025.2, fp32, the fastest peer in fp32 "
        "and in any arithmetic."
    )
    faster = Peer("openvino 2025.2 with NNCF 3.4.0, int8", "int8", latency(5.1), Estimate(2.1, 2.0, 2.2))
    report = dataclasses.replace(report, peers=(*report.peers, faster))
    assert tables.against_peers(report) == (
        "At q = 1.2 a video takes 56.8% (56.1% to 57.4%) of the time on openvino 2025.2, fp32, the fastest peer in fp32. "
        "At q = 1.2 a video takes 210.0% (200.0% to 220.0%) of the time on openvino 2025.2 with NNCF 3.4.0, int8, the "
        "fastest peer in any arithmetic."
    )
    assert tables.against_peers(report) in [section.line for section in describe(report)]
    assert tables.against_peers(sample_report(peers=())) == ""


def test_given_thresholds_are_called_so():
    points = [dataclasses.replace(point, name="thresholds") for point in sample_report().points[:1]]
    report = sample_report(points=(*points, *sample_report().points[1:]))
    assert tables.headline(report).startswith("With the given thresholds a video takes ")
    assert tables.against_peers(report).startswith("With the given thresholds a video takes 56.8%")
