"""``dynvid data`` as a user types it."""

import json

import pytest
from command_line import dynvid, ok, refused
from data_layouts import write

import dynvid as package
from dynvid.training.clips import write_clips


@pytest.fixture
def listed(tmp_path):
    """Return a list of four videos of which one is missing and one is no video."""
    path = write_clips(tmp_path / "set", 4, 0)
    (path.parent / "clips/000001.mp4").write_text("no video")
    (path.parent / "clips/000002.mp4").unlink()
    return path


def test_it_reports_what_is_there_and_what_is_wrong(listed):
    done = dynvid("data", listed)
    assert done.returncode == 0 and "a list (clips.csv); clips in" in done.stdout
    assert "train  4       3      1        -           3" in done.stdout
    assert "missing: 1 (left out; " in done.stdout and "  train · clips/000002.mp4 · " in done.stdout
    assert "--scan finds those that cannot be read" in done.stdout and "next: the same command with -o" in done.stdout
    assert not list(listed.parent.glob("*.json"))


def test_it_writes_the_lists_and_names_the_next_command(listed, tmp_path):
    said = ok("data", listed, "--scan", "-o", tmp_path / "out")
    assert "train  4       3      1        1           2" in said
    assert f"calibrate and classify can take {tmp_path}/out/train.csv" in said
    assert said.splitlines()[-1] == (
        f'next: in CONFIG.toml, [data] folder = "{tmp_path}/out"; then dynvid train CONFIG.toml -o RUN/'
    )
    assert len((tmp_path / "out/train.csv").read_text().splitlines()) == 3
    as_json = json.loads(ok("data", listed, "--scan", "--json"))
    assert as_json == json.loads((tmp_path / "out/report.json").read_text()) == package.data(listed, scan=True)


def test_frame_folders_are_for_training_only(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"frames/{name}/clip/1.jpg", [])
    said = ok("data", tmp_path / "frames", "-o", tmp_path / "out")
    assert f"only training can take {tmp_path}/out/train.csv: folders of frames" in said and "calibrate and" not in said


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        ("video,label\na.mp4\n", [], 3, "line 2: 1 fields, expected 2"),
        ("video,label\na.mp4,x\n", [], 3, "missing: 1 of 1, first 'a.mp4'. Name the folder of the videos (--videos)."),
        ("some words\n", [], 3, "of no known format"),
        ("video,label\na.mp4,x\n", ["--format", "ucf101"], 3, "has no trainlist01.txt of UCF101"),
        ("video,label\na.mp4,x\n", ["--format", "ucf"], 2, "format 'ucf': expected auto"),
        ("video,label\na.mp4,x\n", ["--labels", "none.txt"], 3, "labels 'none.txt' cannot be read"),
        ("video,label\na.mp4,x\n", ["--videos", "none"], 3, "--videos 'none' is not a folder"),
        ("a.mp4 0 3\n", [], 3, "line 1: 2 labels"),
    ],
)
def test_bad_input_is_one_line(tmp_path, content, options, code, message):
    (tmp_path / "list.txt").write_text(content)
    assert message in refused(code, "data", tmp_path / "list.txt", *options)


def test_a_missing_source_and_an_output_of_something_else_are_refused(listed, tmp_path):
    assert "No such file" in refused(3, "data", tmp_path / "none")
    assert "holds other files" in refused(2, "data", listed, "-o", listed.parent)
