"""A LIST is read as it is written, or refused with the line that is wrong."""

from pathlib import Path

import pytest

from dynvid.grid.errors import ListError
from dynvid.runtime.video.listing import ListedVideo, read_list


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_paths_are_relative_to_the_list(tmp_path):
    path = written(tmp_path, "video,label\na.mp4,cat\nsub/b c.mp4,dog\n/abs/d.mp4,\n")
    assert read_list(path) == [
        ListedVideo(tmp_path / "a.mp4", "cat"),
        ListedVideo(tmp_path / "sub" / "b c.mp4", "dog"),
        ListedVideo(Path("/abs/d.mp4"), None),
    ]
    assert read_list(str(path)) == read_list(path)


@pytest.mark.parametrize(
    "text",
    [
        "video\na.mp4\nb.mp4\n",
        "video\r\na.mp4\r\n\r\nb.mp4",
        "\ufeffvideo\na.mp4\nb.mp4\n",
        ' video \n"a.mp4"\n  b.mp4\n',
        "split,video\ntrain,a.mp4\nval,b.mp4\n",
    ],
    ids=["plain", "windows", "byte order mark", "spaces", "more columns"],
)
def test_labels_are_optional_and_dialects_are_understood(tmp_path, text):
    assert read_list(written(tmp_path, text)) == [
        ListedVideo(tmp_path / "a.mp4"),
        ListedVideo(tmp_path / "b.mp4"),
    ]


def test_quoted_fields_may_hold_commas_and_line_ends(tmp_path):
    path = written(tmp_path, 'label,video\n"running, fast","a,b.mp4"\n"two\nlines",c.mp4\n')
    assert read_list(path) == [
        ListedVideo(tmp_path / "a,b.mp4", "running, fast"),
        ListedVideo(tmp_path / "c.mp4", "two\nlines"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"list\.csv' is empty"),
        ("\n \n", "is empty"),
        ("video,label\n", "has a header but no rows"),
        ("a.mp4,cat\nb.mp4,dog\n", "line 1: columns a.mp4, cat; exactly one must be 'video'"),
        ("file,label\na.mp4,cat\n", "line 1: columns file, label; exactly one must be 'video'"),
        ("video,video\na.mp4,b.mp4\n", "line 1: .*one must be 'video'"),
        ("video,label,label\na.mp4,b,c\n", "line 1: .*at most one 'label'"),
        ("video,label\na.mp4,cat\nb.mp4\n", "line 3: 1 fields, expected 2"),
        ("video,label\na.mp4,running, fast\n", "line 2: 3 fields, expected 2"),
        ("video,label\n\na.mp4,cat\n,dog\n", "line 4: no video"),
        (
            "video,label\na.mp4,x\nb.mp4,x\n./sub/../a.mp4,y\n",
            "line 4: './sub/../a.mp4' has label 'y', but 'x' on line 2",
        ),
        ("video,label\na.mp4,x\na.mp4,\n", "line 3: 'a.mp4' has label None, but 'x' on line 2"),
        ('video\n"a.mp4\n', r"is not a CSV file"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, message):
    with pytest.raises(ListError, match=message):
        read_list(written(tmp_path, text))


def test_a_video_that_is_named_again_counts_once(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, f"video,label\na.mp4,x\n./sub/../a.mp4,x\nb.mp4,y\n{tmp_path}/b.mp4,y\n")
    assert [(str(v.path), v.label) for v in read_list("list.csv")] == [("a.mp4", "x"), ("b.mp4", "y")]
    assert caplog.messages == [
        "list 'list.csv' names 2 videos again, first './sub/../a.mp4' on lines 2 and 3: each counts once"
    ]


def test_unreadable_lists_are_refused(tmp_path):
    with pytest.raises(ListError, match=r"No such file.*header"):
        read_list(tmp_path / "missing.csv")
    with pytest.raises(ListError, match="Is a directory"):
        read_list(tmp_path)
    with pytest.raises(ListError, match="is not a CSV file"):
        read_list(written(tmp_path, "video\nä.mp4\n", "latin-1"))
