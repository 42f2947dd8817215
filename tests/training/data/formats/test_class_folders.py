import pytest
from data_layouts import write

from dynvid.grid.errors import ListError, UsageError
from dynvid.training.data.source import read_source


@pytest.fixture
def made(tmp_path):
    """Return a function that makes empty files and reads the folder."""

    def make(*names, **options):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return read_source(tmp_path, **options)

    return make


def test_folders_of_splits_are_told_from_classes(made):
    found = made("train/a/1.mp4", "val/a/2.mp4", "annotations/notes.md")
    assert found.classes == ("a",) and {s: len(r) for s, r in found.splits.items()} == {"train": 1, "validation": 1}
    found = made("training dog/3.mp4")  # a class of Kinetics, so that all are classes
    assert set(found.classes) == {"annotations", "train", "training dog", "val"}
    assert [(p.kind, p.clip) for p in found.problems] == [("empty class", "annotations")]


def test_two_folders_for_one_split_are_refused(made):
    with pytest.raises(ListError, match="several folders for train: train, train_256"):
        made("train/a/1.mp4", "train_256/a/1.mp4")


def test_two_folders_of_one_class_are_refused(made):
    with pytest.raises(ListError, match=r"folders 'air drumming' and 'air_drumming' of .* merge them"):
        made("air drumming/1.mp4", "air_drumming/2.mp4")


def test_clips_may_lie_deeper_and_those_beside_the_classes_have_no_label(made):
    found = made("a/v_a_g01/v_a_g01_c01.mp4", "b/1.mp4", "stray.mp4", "frames/1.jpg")
    assert [(r.label, r.group) for r in found.splits["train"]] == [("a", "v_a_g01"), ("b", None)]
    assert [tuple(p) for p in found.problems] == [
        ("train", "no label", "stray.mp4", ""), ("train", "no label", "frames", ""),
    ]  # fmt: skip


def test_an_empty_class_is_told(made, tmp_path):
    (tmp_path / "empty").mkdir()
    found = made("a/1.mp4", "b/1.avi.part")
    assert found.classes == ("a", "b", "empty")
    assert [tuple(p) for p in found.problems] == [
        ("train", "empty class", "b", ""),
        ("train", "empty class", "empty", ""),
    ]


def test_labels_find_folders_of_another_spelling(made, tmp_path):
    write(tmp_path / "names.txt", ["skiing (not slalom)", "other"])
    found = made("skiing_not_slalom/1.mp4", "more/1.mp4", labels=tmp_path / "names.txt")
    assert [record.label for record in found.splits["train"]] == ["skiing (not slalom)"]
    assert [tuple(p) for p in found.problems] == [
        ("train", "class not among the labels", "more/1.mp4", "more"), ("train", "empty class", "other", ""),
    ]  # fmt: skip


def test_a_folder_without_class_folders_is_refused(made, tmp_path):
    with pytest.raises(ListError, match="of no known format"):
        made("1.mp4")
    with pytest.raises(ListError, match="holds no class folders with videos"):
        made(format="class-folders")
    with pytest.raises(ListError, match="is not a folder"):
        read_source(tmp_path / "1.mp4", format="class-folders")
    with pytest.raises(UsageError, match="--videos of class folders: leave it out"):
        made("a/1.mp4", videos=tmp_path)
