import csv
import json

import pytest
from data_layouts import write

from dynvid.grid.errors import ListError, UsageError
from dynvid.models.labels import read_labels
from dynvid.runtime.video.listing import read_list
from dynvid.training.data.clip_list import read_clip_list
from dynvid.training.data.report import report_of, write_folder
from dynvid.training.data.source import read_source


@pytest.fixture
def source(tmp_path):
    """Return a data set of two classes with six videos that are missing, and frames in its test set."""
    root = tmp_path / "source"
    for index in range(3):
        write(root / f"{index}.mp4", [])
    write(root / "frames/img_00001.jpg", [])
    write(root / "train.csv", ["video,label", "0.mp4,a b", '1.mp4,"c, d"', *(f"x{i}.mp4,a b" for i in range(6))])
    write(root / "val.csv", ["video,label", "2.mp4,a b", "2.mp4,a b"])
    write(root / "test.csv", ["video,label", "frames,a b"])
    return read_source(root)


def test_a_report_counts_and_names_five(source):
    report = report_of(source)
    assert report["splits"] == {
        "train": {"listed": 8, "found": 2, "missing": 6, "unreadable": 0, "usable": 2, "is_list": True},
        "validation": {"listed": 2, "found": 2, "missing": 0, "unreadable": 0, "usable": 1, "is_list": True},
        "test": {"listed": 1, "found": 1, "missing": 0, "unreadable": 0, "usable": 1, "is_list": False},
    }
    assert {kind: about["count"] for kind, about in report["problems"].items()} == {
        "missing": 6, "listed twice": 1, "empty class": 2,
    }  # fmt: skip
    assert [one["clip"] for one in report["problems"]["missing"]["first"]] == [f"x{i}.mp4" for i in range(5)]
    assert json.loads(json.dumps(report)) == report


def test_the_folder_holds_what_training_calibrate_and_classify_read(source, tmp_path):
    folder = tmp_path / "out"
    write_folder(source, folder)
    assert read_labels(folder / "classes.txt") == source.classes == ("a b", "c, d")
    for split, records in source.splits.items():
        assert read_clip_list(folder / f"{split}.csv") == records
    assert [(str(v.path), v.label) for v in read_list(folder / "train.csv")] == [
        (str(record.path), record.label) for record in source.splits["train"]
    ]
    with (folder / "problems.csv").open(newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("split", "kind", "clip", "detail"), *source.problems]
    assert json.loads((folder / "report.json").read_text()) == report_of(source)
    again = read_source(folder)
    assert again.classes == source.classes and again.splits == source.splits


def test_a_folder_is_written_again_without_what_is_no_longer_there(source, tmp_path):
    write_folder(source, tmp_path / "out")
    del source.splits["test"]
    write_folder(source, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"classes.txt", "train.csv", "validation.csv", "problems.csv", "report.json"}


def test_a_folder_of_something_else_is_left_alone(source, tmp_path):
    before = (tmp_path / "source/train.csv").read_text()
    with pytest.raises(UsageError, match="holds other files: give a new folder"):
        write_folder(source, tmp_path / "source")
    assert (tmp_path / "source/train.csv").read_text() == before
    with pytest.raises(UsageError, match="is a file: give a folder"):
        write_folder(source, tmp_path / "source/train.csv")


def test_names_of_classes_that_begin_with_numbers_stay_names(tmp_path):
    for name in ("5 km run", "100 m run"):
        write(tmp_path / "set" / name / "1.mp4", [])
    write_folder(read_source(tmp_path / "set"), tmp_path / "out")
    assert read_labels(tmp_path / "out/classes.txt") == ("100 m run", "5 km run")


@pytest.mark.parametrize("name", [" a", "a\nb"])
def test_a_class_that_is_no_line_is_refused(tmp_path, name):
    write(tmp_path / name / "1.mp4", [])
    with pytest.raises(ListError, match="rename it"):
        read_source(tmp_path)
