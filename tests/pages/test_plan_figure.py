import json
import xml.etree.ElementTree

import pytest
from command_line import ok, refused
from page_reader import read

import dynvid
from dynvid.pages.plan_figure import figure


def test_the_figure_is_the_plan(tiny_bundle, tmp_path):
    path = tmp_path / "plan.svg"
    plan = json.loads(ok("plan", tiny_bundle.root, "--svg", path, "--json"))
    xml.etree.ElementTree.parse(path)
    shown = read(path.read_text())
    drawn = {one.attributes["data-cell"]: int(one.attributes["data-segment"]) for one in shown.all("g", cls="cell")}
    assert drawn == {
        f"{place},{span['block']}": segment["index"]
        for segment in plan["segments"]
        for span in segment["spans"]
        for place in range(span["start"], span["stop"])
    }
    said = [one.text for one in shown.all("text")]
    for point in plan["checkpoints"]:
        assert str(2 * (point["input_set"] + 1)) in said and f"{point['fraction']:.1%}" in said
    assert len(shown.all("circle")) == len(plan["checkpoints"])
    assert [[text.text for text in one.all("text")] for one in shown.all("g", cls="samples")] == [
        [str(2 * place), str(2 * place + 1)] for place in plan["grid"]["set_order"]
    ]
    assert "cell" not in said


def test_a_long_name_ends_in_an_ellipsis(tiny_bundle):
    shown = read(figure({**dynvid.plan(tiny_bundle.root), "network": "w" * 300}))
    (heading,) = (one for one in shown.all("text") if one.all("title"))
    assert heading.all("title")[0].text == "w" * 300 and "…: 5 classes" in heading.text
    assert len(heading.children[-1]) < 90


@pytest.mark.parametrize("route", ["depth", "input", "full", "0,0 0,4 7,4"])
def test_every_route_can_be_drawn(route):
    shown = read(figure(dynvid.plan("msdnet38", route=route)))
    assert len(shown.all("rect", cls="done")) + len(shown.all("rect", cls="unneeded")) == 40


def test_another_name_or_file_is_refused(tiny_bundle, tmp_path):
    assert "ends in .svg" in refused(2, "plan", tiny_bundle.root, "--svg", tmp_path / "plan.png")
    (tmp_path / "a.svg").write_text("notes")
    assert "is not an SVG" in refused(2, "plan", tiny_bundle.root, "--svg", tmp_path / "a.svg")
