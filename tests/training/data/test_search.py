"""What is wrong with a data set is counted and named, and what is unusable is an error."""

import os
from collections import Counter

import pytest
from data_layouts import write

from dynvid.grid.errors import ListError
from dynvid.training.data.problem import KINDS
from dynvid.training.data.source import read_source


def kinds(source):
    return Counter(problem.kind for problem in source.problems)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of six empty videos; none is opened here."""
    for index in range(6):
        (tmp_path / f"{index}.mp4").touch()
    return tmp_path


def listed(folder, name, *lines):
    write(folder / name, lines)
    return read_source(folder / name)


def test_a_clip_counts_once_and_a_second_label_is_told(folder):
    found = listed(folder, "l.csv", "video,label", "0.mp4,a", "./0.mp4,a", f"{folder}/0.mp4,b", "1.mp4,b")
    assert [problem[1:] for problem in found.problems] == [
        ("listed twice", "./0.mp4", ""),
        ("two labels", f"{folder}/0.mp4", "a, then b"),
    ]
    assert [(record.path.name, record.label) for record in found.splits["train"]] == [("0.mp4", "a"), ("1.mp4", "b")]
    assert found.listed == {"train": 4}


def test_clips_and_groups_in_two_splits_are_kept_and_named(folder):
    write(folder / "train.csv", ["video,label,group", "0.mp4,a,x", "1.mp4,b,y", "2.mp4,b,z"])
    write(folder / "test.csv", ["video,label,group", "0.mp4,a,x", "3.mp4,b,y", "4.mp4,b,y", "5.mp4,a,w"])
    found = read_source(folder)
    assert [tuple(problem) for problem in found.problems] == [
        ("test", "in two splits", f"{folder}/0.mp4", "also in train"),
        ("", "group in two splits", "y", "in train and test"),
    ]
    assert {split: len(records) for split, records in found.splits.items()} == {"train": 3, "test": 4}


def test_labels_that_begin_at_1_are_told_and_mended(folder):
    lines = [f"{index}.mp4 {index % 3 + 1}" for index in range(6)]
    found = listed(folder, "l.txt", *lines)
    assert kinds(found) == {"labels begin at 1": 1, "empty class": 1} and found.classes == ("0", "1", "2", "3")
    mended = read_source(folder / "l.txt", first_label=1)
    assert not mended.problems and mended.classes == ("0", "1", "2") and mended.splits["train"][0].label == "0"
    write(folder / "classes.txt", ["a", "b", "c"])
    with pytest.raises(ListError, match=r"'2.mp4' of train has label 3, expected 0 to 2 .* give --first-label 1"):
        read_source(folder / "l.txt")
    assert read_source(folder / "l.txt", first_label=1).splits["train"][2].label == "c"


def test_a_label_out_of_range_is_an_error(folder):
    write(folder / "classes.txt", ["a", "b"])
    for label in (2, -2):
        with pytest.raises(ListError, match=f"label {label}, expected 0 to 1 for 2 classes. Correct it"):
            listed(folder, "l.txt", "0.mp4 0", "1.mp4 1", f"2.mp4 {label}")


def test_classes_without_clips_and_clips_without_labels_are_told(folder):
    write(folder / "classes.txt", ["a", "b", "c"])
    write(folder / "train.txt", ["0.mp4 0", "1.mp4 1", "2.mp4 -1"])
    write(folder / "test.txt", ["3.mp4 -1", "4.mp4 -1"])
    found = read_source(folder)
    assert [tuple(problem) for problem in found.problems] == [
        ("train", "no label", "2.mp4", ""),
        ("train", "empty class", "c", ""),
    ]
    assert [record.label for record in found.splits["test"]] == [None, None]


def test_of_several_files_the_one_of_its_class_is_taken_and_the_others_are_named(tmp_path):
    for name in ("other/7.webm", "zooming_in/7.mkv", "zooming_in/7.webm", "frames/7/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    write(tmp_path / "train.csv", ["7;Zooming in"])
    found = read_source(tmp_path)
    assert found.splits["train"][0].path == tmp_path / "zooming_in/7.mkv"
    ((_, kind, clip, detail),) = found.problems
    assert (kind, clip) == ("several files", "7")
    assert [path.removeprefix(f"{tmp_path}/") for path in detail.split(", ")] == [
        "zooming_in/7.mkv", "zooming_in/7.webm", "other/7.webm", "frames/7",
    ]  # fmt: skip
    for name in ("zooming_in/7.mkv", "zooming_in/7.webm"):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(tmp_path / "other/7.webm")
    (tmp_path / "frames/7/1.jpg").unlink()
    assert not read_source(tmp_path).problems  # all are one file


def test_frames_must_be_whole_and_as_many_as_listed(tmp_path):
    def clip(name, *files):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()

    five = [f"img_{number:05d}.jpg" for number in range(1, 6)]
    clip("whole", *five, "flow_x_00001.jpg", "flow_y_00001.jpg")
    clip("gap", *five[:2], *five[3:])
    clip("two", *five, "000001.jpg")
    clip("none", "readme.txt")
    lines = ["whole 5 0", "whole 3 1", "whole 6 0", "gap 5 0", "two 5 0", "none 5 0", "missing 5 0"]
    found = listed(tmp_path, "l.txt", *lines)
    assert [problem[1:] for problem in found.problems] == [
        ("frames missing", "whole", "listed 1 to 6, found 1 to 5"),
        ("frames missing", "gap", "1 of the numbers 1 to 5"),
        ("several sequences", "two", "{:06d}.jpg, img_{:05d}.jpg"),
        ("missing", "none", f"folder {tmp_path}/none holds no numbered images"),
        ("missing", "missing", f"{tmp_path}/missing"),
    ]
    assert [record.frames.count for record in found.splits["train"]] == [5, 3]
    offset = listed(tmp_path, "o.txt", "whole 2 3 0", "whole 3 3 1").splits["train"]
    assert [(record.frames.first, record.frames.name(2)) for record in offset] == [(3, "img_00005.jpg")]


def test_a_name_that_is_not_utf8_is_told(tmp_path):
    for name in (b"a/ok.mp4", b"a/caf\xe9.mp4", b"b/ok.mp4"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    found = read_source(tmp_path)
    assert [tuple(problem) for problem in found.problems] == [("train", "name not in UTF-8", r"a/caf\udce9.mp4", "")]


def test_where_no_clip_is_usable_the_advice_fits_the_cause(folder):
    write(folder / "names.txt", ["x", "y"])
    write(folder / "l.csv", ["video,label", "0.mp4,a", "1.mp4,b", "9.mp4,x"])
    with pytest.raises(ListError, match="class not among the labels: 2 of 3, first '0.mp4'. Correct the label"):
        read_source(folder / "l.csv", labels=folder / "names.txt")
    write(folder / "train.json", ["[]"])
    with pytest.raises(ListError, match="lists no clip"):
        read_source(folder / "train.json", format="something-v2", labels=folder / "names.txt")


def test_every_kind_of_problem_says_what_to_do():
    assert all(kind.advice for kind in KINDS.values())
