import dataclasses
import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from page_reader import read as tree
from page_reader import require_alone
from sample_report import EXITS, bare_report, sample_report

from dynvid.benchmarks.report.page import page
from dynvid.benchmarks.report.plots import PLOTS, svg
from dynvid.benchmarks.report.report import BreakdownPart, Estimate, Ratio, Report
from dynvid.benchmarks.report.svg import spread, stack
from dynvid.benchmarks.report.tables import RATIOS, headline, number
from dynvid.pages.palette import LIGHT as COLOURS

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Checker(HTMLParser):
    """Collects text, and stops where tags do not pair."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def words(text):
    """Return what is written on the page, plots left out."""
    return " ".join(" ".join(read(re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", text, flags=re.DOTALL)).text).split())


@pytest.fixture(scope="module")
def full():
    return page(sample_report())


@pytest.fixture
def no_plots(monkeypatch):
    """Leave the plots out, which take two seconds, where a test is about the words beside them."""
    monkeypatch.setattr("dynvid.benchmarks.report.page.svg", lambda name, report: "")


def test_the_page_is_whole_small_and_needs_nothing_else(full):
    found = require_alone(full)
    assert len(full.encode()) < 1_000_000
    assert len(found.all("svg")) == len(PLOTS) == 7
    assert not {"script", "img", "metadata"} & {one.tag for one in found}
    links = {one.attributes["href"][1:] for one in found if "href" in one.attributes}
    assert links <= {one.attributes.get("id") for one in found}


def test_two_pages_of_one_report_are_the_same(full):
    assert page(sample_report()) == full


def test_plots_have_text_that_stays_text_and_colours_of_the_page(full):
    drawn = "".join(re.findall(r"<svg.*?</svg>", full, flags=re.DOTALL))
    for label in ("q = 1.2", "openvino 2025.2, fp32", "segment 6", "ideal", "boundary copies", "GMACs a video"):
        assert re.search(rf"<text[^>]*>[^<]*{re.escape(label)}", drawn), label
    assert "var(--blue)" in drawn and "var(--ink)" in drawn and "#1f2328" not in drawn
    assert "prefers-color-scheme: dark" in full
    assert all(full.count(f"--{name}: #") == 2 for name in COLOURS)  # light and dark


def test_every_heading_names_what_computed(full, no_plots):
    where = "onnxruntime fp32, 2 threads, Example CPU 9000 @ 2.4 GHz"
    headings = re.findall(r"<h2>.*?</h2>", full)
    assert len(headings) == 10 and all(where in heading for heading in headings)
    setting = dataclasses.replace(
        sample_report().setting, backend="tensorrt", machine={"processor": "P", "device": "GPU X"}
    )
    headings = re.findall(r"<h2>.*?</h2>", page(sample_report(setting=setting)))
    assert all("tensorrt fp32, 2 threads, GPU X<" in heading for heading in headings)


def test_the_headline_says_whether_the_figures_count(full, no_plots):
    assert "grayscale(1)" not in full
    assert '<p class="validity good">VALID: two copies of the static run differ by 0.62%' in full
    setting = dataclasses.replace(sample_report().setting, faults=("copies differ by 4 %", "others took 9 %"))
    text = page(sample_report(setting=setting))
    assert '<p class="validity bad">NOT VALID: copies differ by 4 %; others took 9 %</p>' in text
    assert "VALID:" not in text.replace("NOT VALID:", "")
    assert "filter: grayscale(1)" in text and "The figures below are grey" in text
    assert all(": NOT VALID</small>" in heading for heading in re.findall(r"<h2>.*?</h2>", text))


def test_the_headline_compares_the_first_point_with_the_static_network(full):
    said = "At q = 1.2 a video takes 10.9 ms instead of the static network's 19.4 ms (56.2%), for 53.6% of its multiply-adds."
    assert (
        f"{said} 96.8% of the answers are right, 98.2% of the static network's. At q = 1.2 a video takes 56.8% "
        "(56.1% to 57.4%) of the time on openvino 2025.2, fp32, the fastest peer in fp32 and in any arithmetic."
        in words(full)
    )
    unlabelled = page(bare_report())
    assert "accuracy" not in headline(dataclasses.replace(sample_report(), points=bare_report().points)).lower()
    assert "nothing to compare" in words(unlabelled)


def test_it_leads_with_what_a_user_decides_by_in_order_of_cost(full, no_plots):
    text = words(full)
    found = [text.index(said) for said in ("What to choose", "q = 0.6 92.1% 5.90", "q = 0.9 95.1%", "q = 1.2, main 96.8% 10.9",
                                           "q = 1.8 98.1%", "static 98.2% 19.4", "static on openvino 2025.2, fp32 – 19.2", "How close")]  # fmt: skip
    assert found == sorted(found)
    assert text.index("How close to the limit") < text.index("scheduler_efficiency")


def test_words_that_a_stranger_does_not_know_are_explained(full, no_plots):
    text = words(full)
    for said in ("named after q: how many videos leave at a checkpoint, over how many left at the one before",
                 "A target is what dynvid asks of itself", "mean latency of the last quarter over that of the second",
                 "The oracle knows every exit before"):  # fmt: skip
        assert said in text, said
    assert set(RATIOS) >= {ratio.name for ratio in sample_report().ratios} and " bar " not in text
    tables = [
        [cell.text for cell in table.all("th") if cell.attributes.get("scope") == "col"]
        for table in tree(full).all("table")
    ]
    assert not {"p50", "p90", "p99"} & {name for names in tables for name in names}


def test_no_column_is_empty_and_one_run_has_no_interval(full, no_plots):
    for table in tree(full).all("table"):
        rows = [
            [cell.text.strip() for cell in row.children if not isinstance(cell, str)]
            for row in table.all("tbody")[0].all("tr")
        ]
        assert all(set(column) - {"", "–"} for column in zip(*rows, strict=True))
    once = Ratio("latency_ratio_p50", Estimate(1.3, 1.3, 1.3), "<= 1.10", False, "one run, so no interval")
    text = words(page(sample_report(ratios=(once,))))
    assert "1.300 ; target at most 1.10: missed" in text and "1.300 to 1.300" not in text


def test_every_figure_of_the_ratios_is_the_reports(full, no_plots):
    report = sample_report()
    for i, ratio in enumerate(report.ratios):
        changed = dataclasses.replace(
            ratio, estimate=Estimate(7.1111, 7.0222, 7.2333), bar=">= 7.5", meets=False, note="another note"
        )
        assert not {"7.111", "7.022", "another note"} & set(words(full).split())
        ratios = (*report.ratios[:i], changed, *report.ratios[i + 1 :])
        text = words(page(dataclasses.replace(bare_report(), points=(), ratios=ratios)))
        name, about = RATIOS[ratio.name]
        said = f"{name} 7.111 (95 % interval 7.022 to 7.233); target at least 7.5: missed {about}"
        assert f"{said} Measured: another note. {ratio.name}" in text
    assert "possible 0.932 (95 % interval 0.921 to 0.943); target at least 0.95: missed" in words(full)
    assert "median – ; target at most 1.10: not measured" in words(full)
    assert "99th percentile 1.211 (95 % interval 1.172 to 1.252); no target" in words(full)


def test_the_tables_hold_what_was_measured(full):
    text = words(full)
    assert "q = 1.2 9.75 53.6% 96.8% 97.1% 10.9 10.7 to 11.1 10.7 11.9 13.2 124" in text
    assert "q = 1.2 9.75 10.3 96.8% 93.8% to 98.8% 97.1% 94.1% to 99.1%" in text
    assert "openvino 2025.2, fp32" in text
    assert "heads and decisions +0.330 +3.2%" in text
    assert "offline re-batched measured 1000 121 93.2% 24" in text
    assert "Poisson, 70 % of the oracle 91.2 90.8 42.6 35.5 71.0 63.9 1.02 24" in text
    assert "mean videos a launch 7.07 6.86" in text and "mean wait in the queue, ms 4.00 6.50" in text
    assert "segment 1 1.20 (1.20) 2.12 (1.06) 3.97 (0.993) 7.67 (0.958)" in text
    assert "q = 1.2 1 26.0% 40 1.26 1.24 to 1.29" in text and "no exits 6 100.0%" in text and "no exits 1 " not in text
    assert "Server INVALID 5000 60.1 83.2 52.0 88.0 131 83.9 queries/s, p99 <= 86.0 ms 0 of 500" in text
    assert "Server: p99 latency over the bound" in text
    assert "912 MB at the peak" in text and "3.41 MB of state a video in flight, at most 24" in text
    assert "38.2 ms mean, 36.9 ms median, 55.0 ms p99, of 48 videos" in text
    assert "python 3.11.9, dynvid 0.1.0" in text and "2026-01-31" in text and "3f" * 32 in text


def test_sections_without_figures_say_why():
    text = page(bare_report())
    found = re.findall(r'<p class="empty">(.*?)</p>', text, flags=re.DOTALL)
    for why in ("No peer was measured", "No breakdown", "No stream was run.", "No segment was timed", "LoadGen was not run",
                "Decoding: none"):  # fmt: skip
        assert sum(why in line for line in found) == 1, why
    assert "nan" not in words(text).lower().replace("unnamed", "") and "None" not in words(text)
    assert (
        "The clips have no labels" in text
        and "same as static" in words(text)
        and "accuracy " not in words(text).split("What to choose")[1]
    )
    assert "unnamed machine" in text and "nothing to compare" in text


def test_nothing_at_all_still_makes_a_page():
    text = page(dataclasses.replace(bare_report(), points=(), ratios=()))
    read(text)
    assert "No ratio was asked for." in text and "<svg" not in text


EVIL = "<script>alert(1)</script>&\"'$x_1$ ]]> -->"


def poisoned(value):
    """Return a report's value with poison at the end of every text, but the names that mean something."""
    if isinstance(value, str):
        return value if value in ("static", "no exits") else value + EVIL
    if isinstance(value, tuple):
        items = [poisoned(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, dict):
        return {
            poisoned(key) if key not in ("processor", "device") else key: poisoned(item) for key, item in value.items()
        }
    if dataclasses.is_dataclass(value):
        return type(value)(**{field.name: poisoned(getattr(value, field.name)) for field in dataclasses.fields(value)})
    return value


def test_no_text_of_a_report_becomes_a_tag(full):
    report: Report = poisoned(sample_report(launches=(), samples=()))
    text = page(dataclasses.replace(report, setting=dataclasses.replace(report.setting, faults=(EVIL,))))
    found = read(text)
    assert "<script" not in text and found.tags.count("svg") == 7
    assert set(found.tags) == set(read(full).tags)
    for name, count in (("clips", 2), ("network", 3)):
        shown = [piece for piece in "".join(found.text).split("\n") if getattr(report.setting, name) in piece]
        assert len(shown) >= count, name
    assert "openvino 2025.2, fp32" + EVIL in "".join(found.text)


def test_odd_figures_are_drawn_or_left_out_but_stop_nothing():
    report = sample_report()
    unknown = Estimate(math.nan, math.nan, math.nan)
    first = dataclasses.replace(
        report.points[0], latency=dataclasses.replace(report.points[0].latency, mean_ms=unknown), agreement=unknown
    )
    streams = tuple(dataclasses.replace(s, videos_per_s=math.inf, growth=math.nan) for s in report.streams)
    breakdowns = tuple(dataclasses.replace(b, ideal_ms=math.nan) for b in report.breakdowns)
    text = page(dataclasses.replace(report, points=(first, *report.points[1:]), streams=streams, breakdowns=breakdowns))
    assert read(text).tags.count("svg") == 5  # neither throughput nor breakdown
    down = dataclasses.replace(report.breakdowns[0], parts=(BreakdownPart("saved", -3.0),), actual_ms=7.39)
    assert svg("breakdown", sample_report(breakdowns=(down,)))
    alone = sample_report(points=(dataclasses.replace(report.points[-1], accuracy=None),), peers=())
    assert svg("cost", alone) and svg("quality", alone) and svg("exits", alone) is None


def test_a_route_of_sixteen_checkpoints_and_batches_of_128_still_fit():
    report = sample_report()
    fills = tuple(tuple(range(129)) for _ in range(16))
    run = dataclasses.replace(report.streams[0], fills=fills, wait_ms=(1.0,) * 16)
    point = dataclasses.replace(report.points[0], shares=(1 / 16,) * 16, exit_latency=(report.points[0].latency,) * 16)
    text = page(dataclasses.replace(report, streams=(run, run, run), points=(point, report.points[-1])))
    assert len(text.encode()) < 1_000_000
    read(text)


def test_labels_move_apart_and_no_farther_than_they_must():
    assert spread([5.0, 1.0, 9.0], 2.0) == [5.0, 1.0, 9.0]
    assert spread([1.0, 1.0], 2.0) == [0.0, 2.0]
    moved = spread([3.0, 3.1, 2.9, 10.0], 1.0)
    assert moved == pytest.approx([3.0, 4.0, 2.0, 10.0])
    assert spread([], 1.0) == []


def test_names_of_points_are_lifted_over_those_before():
    assert stack([(0.0, 1.0), (5.0, 1.0)], 2.0, 3.0) == [(0.0, 1.0), (5.0, 1.0)]
    assert stack([(5.0, 1.0), (4.0, 1.0), (9.0, 1.0)], 2.0, 3.0) == [(5.0, 4.0), (4.0, 1.0), (9.0, 1.0)]
    assert stack([(0.0, 1.0), (1.0, 9.0)], 2.0, 3.0) == [(0.0, 1.0), (1.0, 9.0)]
    crowd = [(0.1 * i, 0.05 * i) for i in range(9)]
    heights = sorted(y for _, y in stack(crowd, 2.0, 3.0))
    assert all(b - a >= 3.0 - 1e-9 for a, b in pairwise(heights))


def test_numbers_keep_three_digits_and_no_exponent():
    found = [number(x) for x in (0.01234, 1.0, 12.34, 123.4, 1234567.0, None, math.nan, -0.5)]
    assert found == ["0.012", "1.00", "12.3", "123", "1234567", "–", "–", "-0.500"]


def test_exits_without_latency_have_their_share(no_plots):
    point = dataclasses.replace(sample_report().points[0], exit_latency=(None,) * EXITS)
    assert "q = 1.2 2 20.0% q = 1.2 3" in words(page(sample_report(points=(point,))))
