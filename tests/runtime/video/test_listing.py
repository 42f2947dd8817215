"""A LIST is read as it is written, or refused with the line that is wrong."""

import sys
import tracemalloc
from pathlib import Path

import pytest

from dynvid.grid.errors import ListError, MissingPackageError
from dynvid.runtime.video.listing import Columns, ListedVideo, VideoList, open_list, read_list


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
        ("a.mp4,cat\nb.mp4,dog\n", "line 1: no column 'video': columns are a.mp4, cat. It seems to be"),
        (
            "file,label\na.mp4,cat\n",
            "line 1: no column 'video': columns are file, label.*with --video-column file. To make",
        ),
        ("uri,label\na,cat\n", "columns are uri, label. Expected a CSV.* --video-column NAME"),
        ("vi\0deo\na.mp4\n", r"columns are 'vi\\x00deo'\. Expected"),
        ("c" * 130_000 + "\n", r"columns are c{100}…\. Expected"),
        (",".join("abcdefghijklmnopqrstuvwxyz") + "\n", "s, t, …. Expected"),
        ("video,video\na.mp4,b.mp4\n", "line 1: 2 columns 'video', expected one"),
        ("video,label,label\na.mp4,b,c\n", "line 1: 2 columns 'label', expected one"),
        ("video\na\0.mp4\n", r"line 2: 'a\\x00.mp4' cannot be a path"),
        ("video\n" + "a" * 5000 + "\n", "line 2: a{100}… cannot be a path"),
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
    with pytest.raises(ListError, match="is a folder without videos"):
        read_list(tmp_path)
    with pytest.raises(ListError, match="is not a CSV file"):
        read_list(written(tmp_path, "video\nä.mp4\n", "latin-1"))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (",,img_{:05d}.jpg,1,5", "a folder of frames (pattern img_{:05d}.jpg)"),
        ("1.5,,,,", "a part of a video (start_s 1.5)"),
        (",2.5,,,", "a part of a video (end_s 2.5)"),
    ],
)
def test_what_only_training_reads_is_refused(tmp_path, row, what):
    path = written(tmp_path, f"video,label,start_s,end_s,pattern,first,count\na.mp4,x,,,,,\nb,x,{row}\n")
    with pytest.raises(ListError) as caught:
        read_list(path)
    assert f"line 3: 'b' is {what}, which only training reads. Expected a whole video" in str(caught.value)
    assert len(read_list(written(tmp_path, "video,label,start_s,group\na.mp4,x,,g\n"))) == 1


# other formats, and columns by name


def in_format(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


ROWS = [("a.mp4", "cat"), ("sub/b, c.mp4", "dog")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.tsv", "video\tlabel\na.mp4\tcat\nsub/b, c.mp4\tdog\n"),
        ("l.jsonl", '{"video": "a.mp4", "label": "cat"}\n\n{"label": "dog", "video": "sub/b, c.mp4", "more": 1}\n'),
        ("l.ndjson", '\ufeff{"video": "a.mp4", "label": "cat"}\n{"video": "sub/b, c.mp4", "label": "dog"}\n'),
        ("l.txt", '\ufeffvideo,label\na.mp4,cat\n"sub/b, c.mp4",dog\n'),
    ],
)
def test_the_suffix_says_the_format(tmp_path, name, text):
    found = read_list(in_format(tmp_path, name, text))
    assert found == [ListedVideo(tmp_path / video, label) for video, label in ROWS]


def test_paths_in_a_text_file_a_folder_or_a_pattern_come_sorted_or_as_written(tmp_path, monkeypatch):
    for name in ("c/2.mp4", "c/10.AVI", "c/d/1.npy", "c/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    text = in_format(tmp_path, "paths.txt", "\ufeffc/2.mp4\r\n\nc/a, b.mp4\n")
    assert [video.path for video in read_list(text)] == [tmp_path / "c/2.mp4", tmp_path / "c/a, b.mp4"]
    expected = [tmp_path / "c" / name for name in ("10.AVI", "2.mp4", "d/1.npy")]
    assert [video.path for video in read_list(tmp_path / "c")] == expected
    assert [video.path for video in read_list(tmp_path / "c/**/[12]*.*")] == expected
    monkeypatch.chdir(tmp_path)
    for relative in ("c", "c/", "./c", "c/**/[12]*.*", "./c/**/[12]*.*"):
        assert [str(video.path) for video in read_list(relative)] == ["c/10.AVI", "c/2.mp4", "c/d/1.npy"]
    with pytest.raises(ListError, match=r"nothing/\*\.mp4' fits no file. Expected a pattern"):
        read_list("nothing/*.mp4")


@pytest.mark.parametrize("text", ["a\nb c.dat\n", "a.mp4\nb c\n", "a, b\n c\n"])
def test_a_text_file_is_one_path_a_line_whatever_the_suffixes(tmp_path, text):
    found = read_list(in_format(tmp_path, "paths.txt", text))
    assert [row.path for row in found] == [tmp_path / line.strip() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("huge.txt", "a" * 5_000_000, "line 1: a{100}… cannot be a path. Expected one path a line"),
        ("huge.csv", "a" * 5_000_000, "is not a CSV file .field larger"),
        ("empty.txt", "\n", "is empty. Expected one path a line"),
        ("empty.tsv", "", "is empty. Expected text in UTF-8, separated by tabs"),
        ("empty.jsonl", "", "is empty. Expected JSON Lines"),
        ("none/", "", "is a folder without videos. Expected videos in it"),
        ("other.tsv", "uri\nx\n", "columns are uri. Expected text in UTF-8, separated by tabs"),
        ("text.txt", "ä\n".encode("latin-1"), "It seems to be text in Latin-1"),
        ("text.txt", b"\x81\0", "is not a CSV file.*Expected one path a line"),
    ],
)
def test_each_format_says_what_it_expects(tmp_path, name, text, message):
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ListError, match=message) as caught:
        read_list(path)
    assert len(str(caught.value)) < 1000


def test_parquet_says_what_it_expects(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "l.parquet"
    path.write_text("video\n")
    with pytest.raises(ListError, match=r"is not a parquet file .*\. Expected a parquet file with a column 'video'"):
        read_list(path)
    parquet.write_table(pyarrow.table({"video": ["a.mp4"], "cls": ["x"]}), path)
    with pytest.raises(ListError, match="no column 'x': columns are video, cls. Name"):
        open_list(path, Columns(label="x"))
    parquet.write_table(pyarrow.table({"uri": ["a.mp4"]}), path)
    with pytest.raises(ListError, match="columns are uri. Expected a parquet file"):
        read_list(path)


def test_columns_go_by_the_names_that_are_given(tmp_path):
    path = written(tmp_path, "clip,class,key\na.mp4,cat,1\na.mp4,cat,2\nb.mp4,dog,3\n")
    found = open_list(path, Columns("clip", "class", "key"))
    assert [(row.path.name, row.label, row.id, row.key) for row in found] == [
        ("a.mp4", "cat", "1", "1"),
        ("a.mp4", "cat", "2", "2"),
        ("b.mp4", "dog", "3", "3"),
    ]
    assert [row.key for row in open_list(path, Columns("clip"))] == [str(tmp_path / n) for n in ("a.mp4", "b.mp4")]


@pytest.mark.parametrize(
    ("columns", "text", "message"),
    [
        (Columns("clip"), "video\na.mp4\n", "no column 'clip': columns are video. Name one of them"),
        (Columns(label="class"), "video,label\na,b\n", "no column 'class': columns are video, label. Name"),
        (Columns(id="key"), "video,label\na,b\n", "no column 'key': columns are video, label. Name"),
        (Columns("file", "x"), "file,cls,key\na,b,c\n", "no column 'x': columns are file, cls, key. Name"),
        (Columns(label="class"), "video,class,class\na,b,c\n", "2 columns 'class', expected one"),
        (Columns(id="key"), "video,key\na.mp4,\n", "line 2: 'a.mp4' has no 'key'"),
        (
            Columns(id="key"),
            "video,key\na,1\nb,1\n",
            "line 3: id '1' is 'b', but '.*a' on line 2. Expected an id a video",
        ),
        (Columns(id="key"), "video,label,key\na,x,1\na,y,1\n", "line 3: 'a' has label 'y', but 'x' on line 2"),
    ],
)
def test_columns_that_are_missing_and_ids_given_twice_are_refused(tmp_path, columns, text, message):
    with pytest.raises(ListError, match=message):
        len(open_list(written(tmp_path, text), columns))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"video": "a.mp4"}\n{"label": "x"}\n', "line 2: no key 'video'. Expected JSON Lines.* --video-column"),
        ('{"video": "a.mp4"}\n{"video": \n', "line 2: Expecting value"),
        ('{"video": null}\n', "line 1: no video"),
    ],
)
def test_json_lines_that_are_wrong_are_refused(tmp_path, text, message):
    with pytest.raises(ListError, match=message):
        read_list(in_format(tmp_path, "l.jsonl", text))


def test_json_lines_without_the_key_that_was_asked_for_are_refused(tmp_path, monkeypatch):
    text = '{"video": "a.mp4", "label": "x"}\n{"video": "b.mp4", "more": 1}\n'
    path = in_format(tmp_path, "l.jsonl", text)
    with pytest.raises(ListError, match="'.*l.jsonl': no row has the key 'cls': keys are video, label, more. Name one"):
        open_list(path, Columns(label="cls"))
    assert [row.label for row in open_list(path, Columns(label="more"))] == [None, "1"]
    assert [row.label for row in open_list(path)] == ["x", None]
    path.write_text(text + '{"video": "c.mp4", "cls": null}\n')  # as an empty column of a CSV
    assert [row.label for row in open_list(path, Columns(label="cls"))] == [None] * 3
    with pytest.raises(ListError, match="no row has the key 'key'|line 1: 'a.mp4' has no 'key'"):
        open_list(path, Columns(id="key"))


def test_without_pyarrow_parquet_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"package 'pyarrow'. Install it: pip install 'dynvid\[parquet\]'"):
        read_list(tmp_path / "l.parquet")


# long lists


def test_a_long_list_is_read_as_far_as_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("dynvid.runtime.video.listing._ROWS_AT_ONCE", 3)
    path = written(tmp_path, "video,label\n" + "".join(f"{i}.mp4,x\n" for i in range(7)) + "3.mp4,x\n8.mp4\n")
    videos = open_list(path)
    assert (len(videos.locations), videos.complete) == (3, False)
    assert videos[4].path.name == "4.mp4" and len(videos.locations) == 6
    with pytest.raises(ListError, match="line 10: 1 fields, expected 2"):
        len(videos)
    path.write_text(path.read_text().removesuffix("8.mp4\n"))
    videos = open_list(path)
    assert [row.path.name for row in videos] == [f"{i}.mp4" for i in range(7)] and videos.complete
    assert [row.path.name for row in videos[5:]] == ["5.mp4", "6.mp4"] and videos[-1].path.name == "6.mp4"


def test_a_row_takes_less_than_300_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count = 100_000
    path = tmp_path / "list.csv"
    path.write_text("video,label\n" + "".join(f"clips/part{i % 100:03d}/{i:07d}.mp4,{i % 400}\n" for i in range(count)))
    tracemalloc.start()
    try:
        videos = open_list(path.name)
        len(videos)
        done = {videos.own(f"clips/part{i % 100:03d}/{i:07d}.mp4") for i in range(count)}
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{held / count:.0f} bytes a row, at most {most / count:.0f}")
    assert len(done) == count and most < 300 * count


def test_rows_given_from_python_have_an_id_each():
    rows = [ListedVideo.of("a.mp4", None, "1"), ListedVideo.of("b.mp4", None, "1")]
    with pytest.raises(ListError, match=r"^rows: id '1' is 'b.mp4', but 'a.mp4'\. Expected an id a video"):
        VideoList.of(rows)
    assert len(VideoList.of([rows[0], rows[0]])) == 1
