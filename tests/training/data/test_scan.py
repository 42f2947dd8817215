import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_layouts import jpeg, write

from dynvid.grid.errors import ListError
from dynvid.training.clips import write_clips
from dynvid.training.data.scan import scan
from dynvid.training.data.source import read_source


@pytest.fixture
def folder(tmp_path):
    write_clips(tmp_path, 4, 0)
    return tmp_path


def test_every_clip_is_opened_and_counted(folder, caplog):
    (folder / "clips/000001.mp4").write_bytes(b"no video")
    write(folder / "clips/000002.npy", ["no array"])
    write(folder / "l.csv", ["video,label", *(f"clips/00000{i}.mp4,a" for i in range(4)), "clips/000002.npy,b"])
    write(folder / "classes.txt", ["a", "b", "c"])
    caplog.set_level("DEBUG", "dynvid")
    found = scan(read_source(folder / "l.csv"))
    assert {(p.kind, Path(p.clip).name) for p in found.problems if p.kind != "empty class"} == {
        ("unreadable", "000001.mp4"), ("unreadable", "000002.npy"),
    }  # fmt: skip
    assert [p.clip for p in found.problems if p.kind == "empty class"] == ["b", "c"]  # b: now that its clip is left out
    assert len(found.splits["train"]) == 3 and found.scanned
    said = [record.message for record in caplog.records if record.levelno == logging.DEBUG]
    assert sorted(said)[-1] == "reading the first and last frame: 5/5 clips" and len(said) == 5


def test_parts_of_one_video_are_judged_apart(folder):
    write(folder / "l.csv", ["video,label,start_s,end_s", "clips/000000.mp4,a,0,0.5", "clips/000000.mp4,a,500,501"])
    found = scan(read_source(folder / "l.csv"))
    assert [record.start_s for record in found.splits["train"]] == [0]
    assert [problem.kind for problem in found.problems] == ["unreadable"]


def test_the_last_frame_is_read_too(tmp_path):
    image = jpeg(np.zeros((48, 64, 3), np.uint8))
    for name, last in (("whole", image), ("broken", b"no image")):
        (tmp_path / "class" / name).mkdir(parents=True)
        for number, content in enumerate([image, image, last]):
            (tmp_path / "class" / name / f"{number}.jpg").write_bytes(content)
    found = scan(read_source(tmp_path))
    assert [record.path.name for record in found.splits["train"]] == ["whole"]
    assert "2.jpg' cannot be decoded" in found.problems[0].detail


def test_nothing_readable_is_an_error(folder):
    for path in (folder / "clips").iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(ListError, match=r"none of the 4 clips can be read, first: video '.*000000.mp4'"):
        scan(read_source(folder / "clips.csv"))


@pytest.mark.skipif("DYNVID_CLIPS" not in os.environ, reason="DYNVID_CLIPS does not name a folder of videos")
def test_real_clips(tmp_path):
    """Of a folder of videos those are left out that no frame can be read of, and damaged ones are told."""
    for index, path in enumerate(sorted(Path(os.environ["DYNVID_CLIPS"]).iterdir())):
        if path.suffix != ".md":
            (tmp_path / f"class {index % 3}").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / f"class {index % 3}" / path.name)
    found = scan(read_source(tmp_path))
    unreadable = {Path(problem.clip).stem for problem in found.problems if problem.kind == "unreadable"}
    assert unreadable == {"corrupted", "html_error_page", "truncated"}
    assert len(found.splits["train"]) == found.listed["train"] - 3
