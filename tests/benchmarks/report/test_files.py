import csv
import dataclasses
import errno
import json
import math
from contextlib import contextmanager

import pytest
from sample_report import EXITS, bare_report, sample_report

from dynvid.benchmarks.report import files as report_files
from dynvid.benchmarks.report.files import require_report_folder, write_report
from dynvid.benchmarks.report.report import LaunchSpan
from dynvid.benchmarks.simulation.cost_tables import read_table
from dynvid.grid.errors import ResourceError, UsageError
from dynvid.grid.storage.files import whole_file

FILES = ["cost_table.json", "points.csv", "report.html", "report.json", "samples.csv", "table.csv", "trace.json"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "new" / "report"
    write_report(sample_report(), folder)
    return folder


@pytest.fixture
def no_page(monkeypatch):
    """Leave the page out, whose plots take two seconds; ``written`` has it, and test_page.py is about it."""
    monkeypatch.setattr(report_files, "page", lambda report: "<html></html>")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_report_is_seven_files_and_nothing_else(written):
    assert sorted(path.name for path in written.iterdir()) == FILES


def test_the_simulator_reads_the_table_of_costs(written):
    table = read_table(written / "cost_table.json")
    for entry in sample_report().table:
        found = table.ms(entry.index, entry.batch) if entry.index else table.static_ms(entry.batch)
        assert found == entry.median_ms


def test_the_json_has_all_figures_and_the_ratios_by_name(written):
    found, report = json.loads((written / "report.json").read_bytes()), sample_report()
    assert found == json.loads(json.dumps(report.to_json()))
    assert found["flops_realisation"]["estimate"] == {"value": 0.9534, "low": 0.9412, "high": 0.9656}
    assert {ratio.name for ratio in report.ratios} <= set(found) and found["latency_ratio_p50"]["estimate"] is None
    assert (written / "report.json").read_text().count("\n") > 100  # a person may read it


def test_points_read_back_as_they_were(written):
    found, report = rows(written / "points.csv"), sample_report()
    assert [row["name"] for row in found] == [point.name for point in report.points]
    for row, point in zip(found, report.points, strict=True):
        for name, estimate in (
            ("accuracy", point.accuracy), ("agreement", point.agreement), ("mean_ms", point.latency.mean_ms)
        ):  # fmt: skip
            values = tuple(float(row[name + end]) for end in ("", "_low", "_high"))
            assert values == (estimate.value, estimate.low, estimate.high)
        for name in ("gmacs", "paper_gmacs", "fraction", "offline_videos_per_s"):
            assert float(row[name]) == getattr(point, name)
        for name in ("p50_ms", "p90_ms", "p99_ms"):
            assert float(row[name]) == getattr(point.latency, name)
        assert row["q"] == ("" if point.q is None else str(point.q))
        assert [row[f"share_{k}"] for k in range(1, EXITS + 1)] == ([str(s) for s in point.shares] or [""] * EXITS)
        for k, by_exit in enumerate(point.exit_latency, 1):
            assert row[f"exit_{k}_p99_ms"] == ("" if by_exit is None else str(by_exit.p99_ms))
    assert found[0]["threshold_1"] == "0.5" and found[0][f"threshold_{EXITS}"] == found[-1]["threshold_1"] == ""


def test_samples_and_times_read_back_as_they_were(written):
    report = sample_report()
    found = [(r["contestant"], int(r["round"]), int(r["clip"]), int(r["exit"]), float(r["ms"])) for r in rows(written / "samples.csv")]  # fmt: skip
    assert found == [tuple(sample) for sample in report.samples]
    names = ("segment", "batch", "median_ms", "p25_ms", "p75_ms")
    found = [tuple(float(row[name]) for name in names) for row in rows(written / "table.csv")]
    assert found == [dataclasses.astuple(time) for time in report.table]
    assert all(
        float(r["median_ms_per_video"]) == float(r["median_ms"]) / int(r["batch"]) for r in rows(written / "table.csv")
    )


def test_the_trace_has_a_process_a_run_and_a_track_a_segment(tmp_path, no_page):
    at = 0.0
    launches = []
    for turn in range(200):  # thirds of a millisecond: no decimal number of microseconds
        launches.append(LaunchSpan("offline", 1, tuple(range(turn % 5)), at, 1 / 3))
        at += 1 / 3
    report = sample_report(launches=(*sample_report().launches, *(x._replace(run="tight") for x in launches)))
    write_report(report, tmp_path)
    events = json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == len(report.launches)
    assert all({"name", "ph", "ts", "dur", "pid", "tid"} <= set(event) for event in spans)
    processes = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert list(processes.values()) == ["offline", "Poisson, 70 % of the oracle", "tight"]
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(tracks) == {(e["pid"], e["tid"]) for e in spans} and tracks[1, 3] == "segment 3"
    for event, launch in zip(spans, report.launches, strict=True):
        assert event["name"] == f"segment {launch.segment} x {len(launch.rows)}"
        assert event["args"]["rows"] == list(launch.rows) and processes[event["pid"]] == launch.run
        assert event["ts"] == pytest.approx(1e3 * launch.start_ms, abs=1e-3)
        assert event["dur"] == pytest.approx(1e3 * launch.ms, abs=2e-3)
    for track in tracks:
        own = sorted((e for e in spans if (e["pid"], e["tid"]) == track), key=lambda e: e["ts"])
        ends = [round(1e3 * (e["ts"] + e["dur"])) for e in own]  # nanoseconds, as the viewer counts
        assert all(end <= round(1e3 * after["ts"]) for end, after in zip(ends, own[1:], strict=False))


def test_figures_that_are_not_there_are_null_or_empty(tmp_path, no_page):
    report = bare_report()
    run = dataclasses.replace(sample_report().streams[0], growth=math.nan, p99_ms=math.inf)
    write_report(dataclasses.replace(report, streams=(run,)), tmp_path)
    text = (tmp_path / "report.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found["streams"][0]["growth"] is None and found["streams"][0]["p99_ms"] is None
    assert found["setting"]["copies_differ"] is None and found["flops_realisation"]["estimate"] is None
    (row,) = rows(tmp_path / "points.csv")
    assert row["accuracy"] == row["q"] == row["exit_1_mean_ms"] == row["exit_1_p99_ms"] == ""
    assert rows(tmp_path / "samples.csv") == rows(tmp_path / "table.csv") == []
    assert json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"] == []


def test_an_earlier_report_is_replaced_and_other_files_beside_it_stay(tmp_path, no_page):
    write_report(bare_report(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write_report(sample_report(), tmp_path)
    assert len(rows(tmp_path / "points.csv")) == 6 and (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])


@pytest.mark.parametrize("name", ["notes.txt", "report.json", "points.csv"])
def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text('{"format": "mine"}')
    for refuse in (require_report_folder, lambda folder: write_report(bare_report(), folder)):
        with pytest.raises(UsageError, match=rf"holds '{name}' and no report: .* Give another -o\.$"):
            refuse(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, expected a folder for the report: give another -o"):
        require_report_folder(tmp_path / "file")
    with pytest.raises(ResourceError, match="cannot be made .*: give another -o"):
        require_report_folder(tmp_path / "file" / "report")


def test_what_a_killed_writer_left_is_no_obstacle(tmp_path, no_page):
    (tmp_path / ".report.json.1234").write_text('{"form')
    write_report(bare_report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".report.json.1234", *FILES]


def test_a_full_disk_leaves_whole_files_only(tmp_path, no_page, monkeypatch):
    write_report(bare_report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    @contextmanager
    def full(path, what, remedy):
        with whole_file(path, what, remedy) as file:
            yield file
            if "samples" in path.name:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report_files, "whole_file", full)
    with pytest.raises(ResourceError, match=r"samples.csv' cannot be written \(No space left on device\)"):
        write_report(sample_report(), tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(after) == FILES
    assert after["samples.csv"] == before["samples.csv"] and after["points.csv"] != before["points.csv"]
