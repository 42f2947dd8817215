from pathlib import Path

import pytest

from dynvid.grid.errors import ListError
from dynvid.training.data.clip_list import read_clip_list, write_clip_list
from dynvid.training.data.record import FrameFiles, Record

RECORDS = [
    Record(Path("/a/b,c (1)'s.mp4"), "x, y"),
    Record(Path("/a/frames"), "y", FrameFiles("img_{:05d}.jpg", 1, 5), group="g01"),
    Record(Path("/a/z.mp4"), None, start_s=1.5, end_s=2.25),
]


def test_a_list_of_clips_reads_as_it_was_written(tmp_path):
    write_clip_list(tmp_path / "clips.csv", RECORDS)
    assert read_clip_list(tmp_path / "clips.csv") == RECORDS
    assert [record.whole_file for record in RECORDS] == [True, False, False]
    assert RECORDS[1].frames.name(4) == "img_00005.jpg"


def test_columns_that_no_clip_uses_are_left_out_and_paths_are_relative_to_the_list(tmp_path):
    write_clip_list(tmp_path / "clips.csv", RECORDS[:1])
    assert (tmp_path / "clips.csv").read_text() == 'video,label\n"/a/b,c (1)\'s.mp4","x, y"\n'
    (tmp_path / "own.csv").write_text("label,video,more\nx,sub/a.mp4,1\n")
    assert read_clip_list(tmp_path / "own.csv") == [Record(tmp_path / "sub" / "a.mp4", "x")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a.mp4,0\n", "has the columns a.mp4, 0"),
        ("video,label\n", "has no rows"),
        ("video,label\na.mp4\n", "line 2: 1 fields, expected 2"),
        ("video,label\n,x\n", "line 2: no video"),
        ("video,start_s\na.mp4,soon\n", "line 2: could not convert"),
        ("video,start_s,end_s\na.mp4,3,2\n", "start_s 3.0, end_s 2.0"),
        ("video,start_s\na.mp4,nan\n", "start_s nan"),
        ("video,pattern,first,count\na,img.jpg,1,5\n", "pattern 'img.jpg'"),
        ("video,pattern,first,count\na,{:q}.jpg,1,5\n", "line 2"),
        ("video,pattern,first,count\na,{},1,0\n", "count 0"),
        ("video,pattern\na,{}\n", "line 2: 'first'"),
    ],
)
def test_a_malformed_list_is_refused(tmp_path, text, message):
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(ListError, match=message):
        read_clip_list(tmp_path / "clips.csv")
    with pytest.raises(ListError, match="No such file"):
        read_clip_list(tmp_path / "missing.csv")
