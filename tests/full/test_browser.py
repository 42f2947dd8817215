"""Every page in real Chromium: no error, no request, nothing cut off on a phone, readable light and dark."""

import dataclasses
import re
import shutil

import pytest
from browser import chromium, look, opened
from hostile_names import HOSTILE
from sample_report import sample_report
from samples import DEMONSTRATION, ROOT

import dynvid
from dynvid.benchmarks.report.page import page as bench_page
from dynvid.grid.thresholds import Thresholds
from dynvid.pages.explained.explanation import Unexplained
from dynvid.pages.explained.page import Setting, figure, page
from dynvid.pages.explained.words import verdict
from dynvid.pages.plan_figure import figure as plan_figure
from dynvid.pages.plan_figure import write_plan
from dynvid.training.clips import write_clips

pytestmark = pytest.mark.full

SETTING = Setting("msdnet", "b", "cells", "T.json")


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(exports, tmp_path_factory):
    """Write every page once, of the demonstration network."""
    folder = tmp_path_factory.mktemp("pages")
    bundle, listed = exports.demonstration(), write_clips(folder / "clips", 24, 3)
    thresholds = folder / "T.json"
    tally = ((1,) * 10,) * 6
    Thresholds(bundle.sha256, (0.7, 0.75, 0.8, 0.87, 0.89, None), expected=tally).write(thresholds)
    clips = sorted((folder / "clips").rglob("*.mp4"))
    found = dynvid.explain(bundle.root, clips[:2], folder / "explain.html", thresholds=thresholds)
    with dynvid.load(bundle, thresholds=thresholds) as model:
        records = []
        model.classify_list(listed, on_record=records.append)
    dynvid.report(records, folder / "report.html", thresholds=thresholds, bundle=bundle.root)
    evil = [hostile(found[0], text) for text in HOSTILE.values()]
    (folder / "hostile.html").write_text(page(evil, SETTING))
    dynvid.report(
        [{**records[0], "video": text, "label": text, "listed_label": text} for text in HOSTILE.values()],
        folder / "hostile-report.html",
    )
    (folder / "bench.html").write_text(bench_page(sample_report()))
    faults = dataclasses.replace(sample_report().setting, faults=("two copies differ by 4 %",))
    (folder / "bench-not-valid.html").write_text(bench_page(sample_report(setting=faults)))
    (folder / "explained.svg").write_text(figure(found))
    long = [
        hostile(found[0], text) for text in ("w" * 300, "W" * 300, "片" * 300, "words " * 60, HOSTILE["four bytes"])
    ]
    (folder / "long.svg").write_text(figure([*long, Unexplained("w" * 300, "W" * 300)]))
    (folder / "long-plan.svg").write_text(plan_figure({**dynvid.plan(bundle.root), "network": "W" * 300}))
    write_plan(folder / "plan.svg", dynvid.plan(bundle.root))
    shutil.copy(ROOT / "docs" / "figures" / "curve.svg", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DEMONSTRATION))
        from demo import page as demo_page
    row = ("of a clip", "0.04", "0.17", "0.24")
    explained = [[str(one.video), verdict(one)] for one in found]
    (folder / "index.html").write_text(demo_page(folder, "fp32: proved", [row] * 4, explained, "1: 2", 0.145))
    return folder


def hostile(one, text):
    points = tuple(
        dataclasses.replace(point, label=text, top=tuple((text, p) for _, p in point.top)) for point in one.checkpoints
    )
    return dataclasses.replace(one, video=text, listed_label=text, checkpoints=points)


PAGES = ["explain", "report", "index", "hostile", "hostile-report", "bench", "bench-not-valid"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_sound_in_every_way_it_is_opened(browser, folder, name):
    seen = look(browser, folder / f"{name}.html")
    assert len(seen) == 4
    assert [one for one in seen if one.faults] == []


@pytest.mark.parametrize("name", ["explained", "plan", "curve"])
def test_a_figure_opens_alone(browser, folder, name):
    with opened(browser, folder / f"{name}.svg", {}) as (shown, faults):
        assert shown.evaluate("document.documentElement.tagName") == "svg" and faults == []


OUTSIDE = """[...document.querySelectorAll('text')].filter(one => {
  const box = one.getBoundingClientRect(), all = document.documentElement.viewBox.baseVal;
  return box.right > all.width || box.left < 0 || box.bottom > all.height;
}).map(one => one.textContent)"""


@pytest.mark.parametrize("name", ["explained", "plan", "long", "long-plan"])
def test_no_text_of_a_figure_lies_outside_it(browser, folder, name):
    with opened(browser, folder / f"{name}.svg", {"viewport": {"width": 1400, "height": 900}}) as (shown, _):
        assert shown.evaluate("document.querySelectorAll('text').length") > 20 and shown.evaluate(OUTSIDE) == []


PLANTED = {
    "an error": ("</main>", "<script>throw Error('x')</script></main>", "console: "),
    "a request": ("</main>", '<img alt="x" src="https://example.invalid/x.png"></main>', "violates"),
    "too wide": ("</main>", '<div style="width: 1300px">x</div></main>', " pixels wide, of 375"),
    "no contrast": ("--soft: #5c656e", "--soft: #a0a8b0", "color-contrast"),
    "no alternative": (' alt="Frame', ' data-alt="Frame', "image-alt"),
    "no title": ('role="img" aria-labelledby', 'role="img" data-labelledby', "svg-img-alt"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(browser, folder, tmp_path, fault):
    before, after, said = PLANTED[fault]
    text = (folder / "explain.html").read_text()
    assert before in text
    if fault == "no title":
        text = re.sub("<title.*?</title>", "", text, flags=re.DOTALL)
    (tmp_path / "page.html").write_text(text.replace(before, after))
    (seen,) = look(browser, tmp_path / "page.html", schemes=["light"], widths=[375])
    assert [line for line in seen.faults if said in line]


def test_a_table_is_sorted_by_the_keyboard(browser, folder):
    with opened(browser, folder / "report.html", {"viewport": {"width": 1200, "height": 900}}) as (shown, faults):
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.textContent") == "To the content"
        for _ in range(40):
            shown.keyboard.press("Tab")
            if shown.evaluate("document.activeElement.textContent") == "videos":
                break
        counts = "[...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map(r => +r.cells[1].textContent)"
        shown.keyboard.press("Enter")
        up = shown.evaluate(counts)
        shown.keyboard.press("Enter")
        down = shown.evaluate(counts)
        assert up == sorted(up) and down == sorted(up, reverse=True) and up[0] < up[-1] and not faults
        assert shown.evaluate("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
