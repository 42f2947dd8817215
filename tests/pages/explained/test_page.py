import dataclasses
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from command_line import dynvid as dynvid_command
from command_line import ok, refused
from hostile_names import HOSTILE, SCRIPT
from page_reader import data_of, read, require_alone
from samples import write_noise

import dynvid
from dynvid.grid.errors import UsageError, VideoError
from dynvid.pages.explained import words
from dynvid.pages.explained.explanation import Unexplained
from dynvid.pages.explained.page import Setting, figure, page
from dynvid.pages.fitting import fitted
from dynvid.pages.legible import legible

SETTING = Setting("msdnet", "b", "cells", None)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("videos"), 3)


@pytest.fixture(scope="module")
def found(tiny_bundle, listed):
    from dynvid.runtime.video.listing import read_list

    return dynvid.explain(tiny_bundle.root, read_list(listed))


def named(one, text):
    """Return an explanation in which every name is ``text``."""
    points = tuple(
        dataclasses.replace(point, label=text, top=tuple((text, p) for _, p in point.top)) for point in one.checkpoints
    )
    answer = dataclasses.replace(one.answer, label=text, warnings=(text,))
    return dataclasses.replace(one, video=f"{text}/{text}", listed_label=text, answer=answer, checkpoints=points)


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_name_becomes_a_tag_and_all_stay_legible(found, kind):
    text = HOSTILE[kind]
    evil = [named(found[0], text), Unexplained(text, text)]
    written = page(evil, Setting(text, text, text, text))
    shown = require_alone(written)
    plain = require_alone(page([found[0], Unexplained("v", "e")], SETTING))
    assert {one.tag for one in shown} == {one.tag for one in plain} | {"p", "bdi"} and SCRIPT not in written
    assert written.encode("utf-8")
    assert legible(text.split("/")[-1]) in shown.all("h2")[0].text and legible(text) in shown.all("table")[0].text
    assert data_of(shown)["videos"][0]["label"] == text
    drawn = figure(evil)
    xml.etree.ElementTree.fromstring(drawn)
    assert SCRIPT not in drawn


def test_what_cannot_be_seen_is_escaped():
    assert legible(HOSTILE["line breaks"]) == r"a\nb\r\x1b[31m\x00\x7f\ufffe"
    assert legible(HOSTILE["not UTF-8"]) == r"caf\udce9" and legible(HOSTILE["four bytes"]) == HOSTILE["four bytes"]
    assert legible(HOSTILE["right to left"]).startswith(r"\u202e")


def test_several_videos_are_cards_and_one_that_fails_says_why(tiny_bundle, listed, tmp_path):
    missing = tmp_path / "missing.mp4"
    written = tmp_path / "page.html"
    done = dynvid_command("explain", tiny_bundle.root, missing, listed.parent / "0.npy", "-o", written)
    said = done.stdout
    assert "without thresholds" in said.lower() and "missing" not in said and f"wrote {written}" in said
    assert done.returncode == 7 and done.stderr.splitlines()[-1].startswith("Error: ")
    assert "missing.mp4': No such file" in done.stderr.splitlines()[-1]
    assert "No such file" in refused(7, "explain", tiny_bundle.root, missing, listed.parent / "0.npy", "--json")
    assert "No such file" in refused(3, "explain", tiny_bundle.root, missing, tmp_path / "gone.mp4", "--json")
    shown = require_alone(written.read_text())
    assert [h2.text for h2 in shown.all("h2")] == ["missing.mp4", "0.npy"]
    assert "No such file" in shown.all("article")[0].text
    assert data_of(shown)["videos"][0] == {"video": str(missing), "error": shown.all("p", cls="bad")[0].text}


def test_the_model_is_warm_also_where_the_first_video_cannot_be_read(tiny_bundle, listed, tmp_path, monkeypatch):
    from dynvid.runtime.model import Model

    runs, classify_many = [], Model.classify_many

    def counted(self, videos, **options):
        for video, answer in classify_many(self, videos, **options):
            runs.append(type(answer).__name__)
            yield video, answer

    monkeypatch.setattr(Model, "classify_many", counted)
    dynvid.explain(tiny_bundle.root, [tmp_path / "missing.mp4", listed.parent / "0.npy"])
    assert runs == ["Unanswered", "Answer", "Unanswered", "Answer"]


def test_one_video_that_fails_is_an_error(tiny_bundle, tmp_path):
    with pytest.raises(VideoError, match="No such file"):
        dynvid.explain(tiny_bundle.root, tmp_path / "missing.mp4")
    assert "No such file" in refused(3, "explain", tiny_bundle.root, tmp_path / "a.mp4", "-o", tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_a_list_brings_labels(tiny_bundle, listed, tmp_path):
    lines = ok("explain", tiny_bundle.root, "--data", listed, "--json").splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["listed_label"] for r in records] == ["a", "b", "c"]
    assert all(r["right"] == (r["label"] == r["listed_label"]) for r in records)
    ok("explain", tiny_bundle.root, "--data", listed, "-o", tmp_path / "page.svg")
    assert xml.etree.ElementTree.parse(tmp_path / "page.svg").getroot().tag.endswith("svg")


def test_preprocessed_frames_are_shown_as_they_were(tiny_bundle, listed, found):
    from dynvid.runtime.video.frames import FrameArray

    manifest = tiny_bundle.manifest
    raw = FrameArray(listed.parent / "0.npy", manifest.preprocessing, manifest.grid.num_frames)
    path = listed.parent / "preprocessed.npy"
    np.save(path, raw.read(range(manifest.grid.num_frames)))
    (one,) = dynvid.explain(tiny_bundle.root, path)
    assert one.images == found[0].images and one.answer.label == found[0].answer.label


@pytest.mark.parametrize("suffix", ["html", "svg"])
@pytest.mark.filterwarnings("error")
def test_an_answer_that_is_no_number_is_said_once_and_contradicts_nothing(tiny_bundle, tmp_path, capfd, suffix):
    np.save(tmp_path / "huge.npy", np.full((8, 3, 32, 32), 3e38, np.float32))
    (tmp_path / "list.csv").write_text("video,label\nhuge.npy,a\n")
    said = ok("explain", tiny_bundle.root, "--data", tmp_path / "list.csv", "-o", tmp_path / f"page.{suffix}")
    verdict = said.splitlines()[0]
    assert "No answer: checkpoint 1 of 4 gave NaN or infinity, which names no class. The label is a." in verdict
    assert not re.search("saved|wrong|Wrong|would have", verdict) and "Warning" not in capfd.readouterr().err
    if suffix == "html":
        shown = require_alone((tmp_path / "page.html").read_text())
        assert "✗" not in shown.all("dl")[0].text and "What was saved" not in shown.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("v.npy", "-o", "page.pdf"), "expected a name that ends in .html, .svg or .png"),
        ((), "explain reads nothing: give VIDEO or --data LIST"),
        (("v.npy", "--data", "l.csv"), "explain takes VIDEO or --data LIST, not both"),
        ([f"{i}.npy" for i in range(51)], "51 videos: expected 1 to 50 on a page"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_any_work(tiny_bundle, arguments, message):
    assert message in refused(2, "explain", tiny_bundle.root, *arguments)


def test_another_file_is_not_replaced(tiny_bundle, listed, tmp_path):
    (tmp_path / "notes.html").write_text("mine")
    said = refused(2, "explain", tiny_bundle.root, listed.parent / "0.npy", "-o", tmp_path / "notes.html")
    assert "is not a page or a figure" in said and (tmp_path / "notes.html").read_text() == "mine"
    for _ in range(2):  # its own it replaces
        ok("explain", tiny_bundle.root, listed.parent / "0.npy", "-o", tmp_path / "page.html")


def test_a_figure_may_be_a_png(tiny_bundle, listed, tmp_path):
    pytest.importorskip("resvg_py", reason="resvg-py is not installed: no PNG here")
    ok("explain", tiny_bundle.root, listed.parent / "0.npy", "-o", tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_labels_that_are_no_classes_are_warned_of(tiny_bundle, listed, tmp_path, caplog):
    from dynvid.runtime.video.listing import read_list

    (tmp_path / "list.csv").write_text(f"video,label\n{listed.parent / '0.npy'},nonsense\n")
    dynvid.explain(tiny_bundle.root, read_list(tmp_path / "list.csv"))
    assert "1 label of the list is not a class of the bundle, first 'nonsense' of" in caplog.text
    caplog.clear()
    dynvid.explain(tiny_bundle.root, read_list(listed)[:1])
    assert "not a class" not in caplog.text


@pytest.mark.parametrize("videos", [5, [5], None])
def test_what_is_no_video_is_refused(tiny_bundle, videos):
    with pytest.raises(UsageError, match="expected a path, or a row of a list"):
        dynvid.explain(tiny_bundle.root, videos)


def test_only_a_page_needs_what_draws_it(tiny_bundle, listed):
    without = (
        "import sys; sys.modules['jinja2'] = sys.modules['matplotlib'] = None\n"
        "import dynvid; from dynvid.grid.errors import MissingPackageError\n"
        "bundle, video = sys.argv[1:]\n"
        "assert len(dynvid.explain(bundle, video)) == 1\n"
        "try: dynvid.explain(bundle, video, 'page.html')\n"
        "except MissingPackageError: print('refused')\n"
    )
    command = [sys.executable, "-c", without, str(tiny_bundle.root), str(listed.parent / "0.npy")]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.stdout == "refused\n", done.stderr


def test_a_figure_alone_says_what_its_marks_mean(found):
    drawn = xml.etree.ElementTree.fromstring(figure(found))
    legend = [one for one in drawn if "data-legend" in one.attrib]
    assert [one.text for one in legend] == list(words.LEGEND)
    assert all(float(one.attrib["y"]) < float(drawn.attrib["height"]) for one in legend)


def spending(one, gmacs):
    answer = dataclasses.replace(one.answer, gmacs=gmacs, fraction=gmacs / one.static_gmacs)
    return dataclasses.replace(one, answer=answer)


def test_the_saving_is_one_figure_wherever_it_stands(found):
    one = spending(found[0], 0.28 * found[0].static_gmacs)
    said = f"{one.answer.gmacs:.3g} of {one.static_gmacs:.3g} GMACs"
    shown = require_alone(page([one], SETTING))
    assert f"{said}: 72.0% saved" in words.verdict(one) and f"{said}: 72.0% saved" in shown.all("article")[0].text
    assert f"saved72.0%used {said}" in shown.all("dl")[0].text.replace("\n", "")
    assert set(re.findall(r"[\d.]+% saved", shown.text)) == {"72.0% saved"}
    assert "of the static network's" not in shown.text and "passes the head" not in shown.text
    more = spending(one, 1.16 * one.static_gmacs)
    assert "GMACs: 16.0% more" in words.verdict(more)
    assert "passes the head of every checkpoint" in require_alone(page([more], SETTING)).text


def test_right_and_wrong_are_marked_with_more_than_a_colour(found):
    for label, mark in ((found[0].answer.label, "✓ right"), ("nonsense", "✗ wrong")):
        one = dataclasses.replace(found[0], listed_label=label)
        assert f"{mark}: the label is {label}" in require_alone(page([one], SETTING)).all("dl")[0].text
        assert f"{mark[0]} {mark[2:].title()}: the label is {label}." in words.verdict(one)
        (bar,) = (b for b in read(figure([one])).all("g", cls="said") if b.all("rect", cls="said"))
        assert bar.all("text")[-1].text == f"{found[0].answer.label} {mark[0]}"


def test_frames_beyond_those_used_are_explained(found):
    one = found[0]
    used = len({frame.frame for frame in one.frames if frame.state == "used"})
    for decoded, explained in ((used, False), (used + 1, True)):
        shown = dataclasses.replace(one, answer=dataclasses.replace(one.answer, frames_decoded=decoded))
        text = require_alone(page([shown], SETTING)).text
        assert f"{decoded} of the video's 12 were decoded" in text
        assert ("the key frame before it, which is stored whole" in " ".join(text.split())) == explained
        assert "of one run of a warm model" in text


@pytest.mark.parametrize("text", ["w" * 300, "W" * 300, "片" * 300, "many words " * 60, "i" * 300])
def test_a_long_label_stays_inside_the_figure_and_its_title_is_whole(found, text):
    evil = [named(found[0], text), Unexplained(text, text)]
    drawn = xml.etree.ElementTree.fromstring(figure(evil))
    name = "{http://www.w3.org/2000/svg}"
    assert any(legible(text) in one.text for one in drawn.iter(f"{name}title"))
    shown = ["".join(t for t in [one.text, *(c.tail for c in one)] if t) for one in drawn.iter(f"{name}text")]
    assert all(fitted(one.strip(), 920) == one.strip() for one in shown) and any("…" in one for one in shown)
    words_end = max(float(line.attrib["y"]) for line in drawn.find(f"{name}g").iter(f"{name}text"))
    assert words_end < float(drawn.find(f"{name}svg").attrib["y"])


def test_no_line_or_circle_covers_the_number_of_a_call(found):
    """Lines are drawn before the numbers, which stroke what is below them; circles keep away."""
    drawn = list(xml.etree.ElementTree.fromstring(figure(found[:1])).iter())
    calls = [place for place, one in enumerate(drawn) if one.attrib.get("class", "").startswith("call ")]
    assert len(calls) == len(found[0].grid.cells)
    assert max(p for p, one in enumerate(drawn) if one.tag.endswith("polyline")) < calls[0]
    circles = [tuple(float(one.attrib[k]) for k in ("cx", "cy", "r")) for one in drawn if one.tag.endswith("circle")]
    for place in calls:
        x, y, width = float(drawn[place].attrib["x"]), float(drawn[place].attrib["y"]), 8 * len(drawn[place].text)
        for cx, cy, r in circles:
            near = (min(max(cx, x), x + width) - cx, min(max(cy, y - 9), y) - cy)
            assert math.hypot(*near) > r + 1.25, (drawn[place].text, cx, cy)


def test_no_videos_are_too_few(tiny_bundle):
    with pytest.raises(UsageError, match="0 videos"):
        dynvid.explain(tiny_bundle.root, [])
