"""Lists are read as mmaction2, TSN and TSM write them, or refused with the line."""

import pytest
from data_layouts import write

from dynvid.grid.errors import ListError, UsageError
from dynvid.training.data.source import read_annotations, read_source


def entries(path, *lines, end="\n", **options):
    write(path, lines, end)
    return [(e.clip, e.label, e.first, e.count) for e in read_annotations(path, **options)[1].entries]


def labels(path, *lines):
    return [label for _, label, _, _ in entries(path, *lines)]


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("a.mp4 3", ("a.mp4", 3, None, None)),
        ("a b/c (1) 2.mp4\t3 ", ("a b/c (1) 2.mp4", 3, None, None)),
        ("a,b.mp4 3", ("a,b.mp4", 3, None, None)),
        ("a.mp4 -1", ("a.mp4", None, None, None)),
        ("a b/frames 120 3", ("a b/frames", 3, None, 120)),
        ("frames 120 -1", ("frames", None, None, 120)),
        ("frames 12 120 3", ("frames", 3, 12, 120)),
        ("frames 3", ("frames", 3, None, None)),
    ],
)
def test_numbers_at_the_end_are_told_from_the_path(tmp_path, line, entry):
    write(tmp_path / "classes.txt", ["w", "x", "y", "z"])
    assert entries(tmp_path / "l.txt", line, line, end="\r\n") == [entry] * 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.mp4 0", "b.mp4 0 3"], r"line 2: 2 labels. Expected .*a clip has one class"),
        (["imgs 5 1", "imgs 5 3 5"], "line 2: 3 numbers, elsewhere 2"),
        (["imgs 1 2 3 4"], "line 1: 4 numbers"),
        (["imgs 0 1"], "line 1: 0 frames, expected at least 1"),
        (["imgs 5 1", "imgs"], "line 2: 'imgs' has no number at its end"),
        (["video,label"], "has a header but no rows"),
        (["video,label", "a.mp4"], "line 2: 1 fields, expected 2"),
        (["video,label", "a.mp4,b, c"], "line 2: 3 fields, expected 2. Quote"),
        (["video,label", ",b"], "line 2: no video"),
        (["video,label,split", "a.mp4,b,most"], "line 2: split 'most', expected train, val or test"),
        (['video,label', '"a.mp4,b'], "line 2: unexpected end"),
        (["video,label,start_s", "a.mp4,b,soon"], "line 2: could not convert"),
        ([], "is empty"),
        (["a.mp4", "b.mp4"], "no clip has a label"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named(tmp_path, lines, message):
    with pytest.raises(ListError, match=message):
        entries(tmp_path / "l.csv", *lines, format="list")


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "l.csv").write_bytes("video,label\na.mp4,Müsli\n".encode("latin-1"))
    with pytest.raises(ListError, match=r"not text in UTF-8 \(byte 19\): convert it"):
        read_annotations(tmp_path / "l.csv")


def test_labels_are_numbers_only_where_all_are(tmp_path):
    path = tmp_path / "l.csv"
    assert labels(path, "video,label", "a.mp4,1.0", "b.mp4,0", "c.mp4,-1") == [1, 0, None]
    assert labels(path, "file;class", "a.mp4;1", "b.mp4;x, y") == ["1", "x, y"]
    assert labels(path, "a.mp4,7", "b.mp4,0") == [7, 0]
    assert labels(path, "video\tlabel", "a.mp4\tx") == ["x"]


def test_names_of_classes_that_are_numbers_are_names(tmp_path):
    """Sorted as text they are not in the order of these numbers."""
    write(tmp_path / "classes.txt", ["1", "10", "2"])
    assert labels(tmp_path / "train.csv", "video,label", "a.mp4,10", "b.mp4,2") == ["10", "2"]
    assert labels(tmp_path / "train.txt", "a.mp4 1", "b.mp4 2") == [1, 2]  # in such lists they are numbers


def test_a_folder_has_one_list_for_a_split_and_the_split_that_is_asked_for(tmp_path):
    for number in (1, 2):
        for part in ("train", "val"):
            write(tmp_path / f"ucf101_{part}_split_{number}_videos.txt", [f"{part}{number}.mp4 0"])
    (tmp_path / "README.txt").write_text("train.mp4 0\n")
    found = read_annotations(tmp_path, split=2)[1]
    assert [(entry.split, entry.clip) for entry in found.entries] == [
        ("train", "train2.mp4"),
        ("validation", "val2.mp4"),
    ]
    assert [entry.clip for entry in read_annotations(tmp_path)[1].entries] == ["train1.mp4", "val1.mp4"]
    with pytest.raises(ListError, match="has no list with split_3 in its name"):
        read_annotations(tmp_path, split=3)
    with pytest.raises(UsageError, match="--split 1 of the list 'ucf101_val_split_1_videos.txt': leave it out"):
        read_annotations(tmp_path / "ucf101_val_split_1_videos.txt", split=1)
    write(tmp_path / "train_rawframes.txt", ["a 5 0"])
    with pytest.raises(ListError, match=r"has 2 lists for train: train_rawframes.txt, ucf101_train_split_1_videos.txt"):
        read_annotations(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ListError, match="holds no list named after a split"):
        read_annotations(tmp_path / "empty", format="list")


@pytest.mark.parametrize(
    "text", ['{"video": "a.mp4", "label": 0}', "# 0\nimgs\n5\n", "abseiling\nair drumming", "1 a\n2 b"]
)
def test_nothing_else_is_taken_for_a_list(tmp_path, text):
    write(tmp_path / "x.txt", [text])
    with pytest.raises(ListError, match="of no known format"):
        read_annotations(tmp_path / "x.txt")


def test_an_absurd_label_is_refused_and_not_counted_up_to(tmp_path):
    write(tmp_path / "l.txt", ["a.mp4 0", "b.mp4 999999999"])
    with pytest.raises(ListError, match=r"clip 'b.mp4' has label 999999999: expected at most 100000"):
        read_source(tmp_path / "l.txt")
