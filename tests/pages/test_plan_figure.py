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
        assert f"({point['input_set']},{point['block']})" in said and f"{point['fraction']:.1%}" in said
    assert len(shown.all("circle")) == len(plan["checkpoints"])
    assert [said[said.index("block 2") + 1 + k] for k in range(4)] == [
        str(place) for place in plan["grid"]["set_order"]
    ]


@pytest.mark.parametrize("route", ["depth", "input", "full", "0,0 0,4 7,4"])
def test_every_route_can_be_drawn(route):
    shown = read(figure(dynvid.plan("msdnet38", route=route)))
    assert len(shown.all("rect", cls="done")) + len(shown.all("rect", cls="unneeded")) == 40


def test_another_name_or_file_is_refused(tiny_bundle, tmp_path):
    assert "ends in .svg" in refused(2, "plan", tiny_bundle.root, "--svg", tmp_path / "plan.png")
    (tmp_path / "a.svg").write_text("notes")
    assert "is not an SVG" in refused(2, "plan", tiny_bundle.root, "--svg", tmp_path / "a.svg")
