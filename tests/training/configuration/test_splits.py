from collections import Counter

import pytest

from dynvid.grid.errors import LabelsError, ListError, UsageError
from dynvid.training.configuration.splits import hold_out, read_splits
from dynvid.training.configuration.tables import Data
from dynvid.training.data.clip_list import write_clip_list
from dynvid.training.data.record import Record


@pytest.fixture
def records(tmp_path):
    """Three classes of 25 groups of 4 clips each."""
    return [
        Record(tmp_path / f"{label}_{group}_{clip}.avi", label, group=f"{label}-g{group}")
        for label in ("b", "a", "c")
        for group in range(25)
        for clip in range(4)
    ]


def test_the_held_out_part_has_its_share_of_every_class_in_whole_groups(records):
    held = hold_out(records, 0.2, seed=0)
    assert Counter(record.label for record in held) == {"a": 20, "b": 20, "c": 20}
    assert set(Counter(record.group for record in held).values()) == {4}
    assert hold_out(records[::-1], 0.2, seed=0)[::-1] == held
    assert hold_out(records, 0.2, seed=1) != held
    assert hold_out(records, 0.0, seed=0) == []


def test_something_of_every_class_stays(records):
    held = hold_out(records, 0.99, seed=0)
    assert Counter(record.label for record in held) == {"a": 96, "b": 96, "c": 96}
    lone = [Record(records[0].path, "a"), Record(records[1].path, "b")]
    assert hold_out(lone, 0.9, seed=0) == []


def test_a_group_that_several_classes_share_is_not_torn_apart(records):
    shared = [Record(record.path, record.label, group=record.group.split("-")[1]) for record in records]
    held = {record.group for record in hold_out(shared, 0.2, seed=0)}
    assert len(held) == 5
    assert len(hold_out(shared, 0.2, seed=0)) == 60


def test_lists_and_classes_of_a_folder(records, tmp_path):
    write_clip_list(tmp_path / "train.csv", records)
    write_clip_list(tmp_path / "test.csv", [Record(tmp_path / "new.avi", "a")])
    splits = read_splits(Data(folder=str(tmp_path)), None, 0)
    assert splits.classes == ("a", "b", "c") and len(splits.train) + len(splits.held_out) == 300
    assert [record.path.name for record in splits.validation] == ["new.avi"]
    (tmp_path / "classes.txt").write_text("c\na\nb\n")
    assert read_splits(Data(folder=str(tmp_path)), None, 0).classes == ("c", "a", "b")
    write_clip_list(tmp_path / "validation.csv", [Record(tmp_path / "other.avi", "a")])
    assert read_splits(Data(folder=str(tmp_path)), None, 0).validation[0].path.name == "other.avi"


def test_without_validation_clips_the_held_out_ones_measure(records, tmp_path):
    write_clip_list(tmp_path / "train.csv", records)
    splits = read_splits(Data(train=str(tmp_path / "train.csv"), held_out=0.1), ("b", "a", "c"), 0)
    assert splits.validation == splits.held_out != [] and splits.classes == ("b", "a", "c")
    with pytest.raises(UsageError, match="nothing to measure"):
        read_splits(Data(train=str(tmp_path / "train.csv"), held_out=0), None, 0)


def test_clips_and_groups_in_both_lists_and_classes_without_clips_are_told(records, tmp_path, caplog):
    write_clip_list(tmp_path / "train.csv", records[:100])
    write_clip_list(tmp_path / "validation.csv", records[:3])
    splits = read_splits(Data(folder=str(tmp_path)), ("a", "b"), 0)
    assert (
        f"{3 - sum(r in splits.held_out for r in records[:3])} of 3 clips of" in caplog.text
        and "1 groups of clips" in caplog.text
    )
    assert "1 classes have no training clip, such as 'a'" in caplog.text


def test_a_clip_counts_once_and_has_one_label(records, tmp_path, caplog):
    write_clip_list(tmp_path / "train.csv", [*records, *records[:7]])
    splits = read_splits(Data(folder=str(tmp_path)), None, 0)
    assert len(splits.train) + len(splits.held_out) == 300 and "names 7 clips again" in caplog.text
    write_clip_list(tmp_path / "train.csv", [*records, Record(records[0].path, "c")])
    with pytest.raises(ListError, match=r"b_0_0.avi' as 'b' and as 'c': remove one"):
        read_splits(Data(folder=str(tmp_path)), None, 0)


def test_a_share_that_holds_out_nothing_is_told(records, tmp_path, caplog):
    write_clip_list(tmp_path / "train.csv", records)
    write_clip_list(tmp_path / "validation.csv", [Record(tmp_path / "new.avi", "a")])
    read_splits(Data(folder=str(tmp_path), held_out=0.01), None, 0)
    assert "no clip is held out" in caplog.text


def test_what_does_not_fit_is_refused(records, tmp_path):
    write_clip_list(tmp_path / "train.csv", records)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UsageError, match=r"network.labels begin with 'x'.*leave one of them out"):
        read_splits(Data(folder=str(tmp_path)), ("x", "y"), 0)
    with pytest.raises(ListError, match=r"missing/train.csv': No such file"):
        read_splits(Data(folder=str(tmp_path / "missing")), None, 0)
    (tmp_path / "classes.txt").write_text("a\na\n")
    with pytest.raises(LabelsError, match="twice"):
        read_splits(Data(folder=str(tmp_path)), None, 0)
    write_clip_list(tmp_path / "one.csv", records[:4])
    with pytest.raises(ListError, match="1 classes: expected at least 2"):
        read_splits(Data(train=str(tmp_path / "one.csv")), None, 0)
    with pytest.raises(UsageError, match="names no clips"):
        Data()
