"""Videos behind URIs give what their files give; each is fetched for itself, and what cannot be is its own error."""

import sys
import tempfile

import fsspec
import numpy as np
import pytest

from dynvid.grid.errors import ListError, MissingPackageError, VideoError
from dynvid.runtime.open_model import open_model
from dynvid.runtime.video.listing import ListedVideo, open_list, read_list
from dynvid.runtime.video.remote import fetch, is_uri
from dynvid.training.clips import write_clips

TIMES = ("latency_ms", "decode_ms", "waited_ms", "elapsed_ms", "video", "file")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a clip, an array and a text, and put the same under ``memory://videos``."""
    folder = tmp_path_factory.mktemp("videos")
    write_clips(folder, 1, seed=3)
    (folder / "clips/000000.mp4").rename(folder / "a.mp4")
    np.save(folder / "b.npy", np.random.default_rng(0).integers(0, 256, (9, 40, 44, 3), np.uint8))
    (folder / "c.mp4").write_text("this is not a video")
    for name in ("a.mp4", "b.npy", "c.mp4"):
        with fsspec.open(f"memory://videos/{name}", "wb") as file:
            file.write((folder / name).read_bytes())
    return folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the folder that temporary files are made in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_is_a_uri():
    assert is_uri("s3://bucket/a.mp4") and is_uri("file:///a.mp4")
    assert not any(map(is_uri, ("a.mp4", "/a.mp4", "c:/a.mp4", "a/b://c")))


def test_the_same_bits_as_the_files_and_nothing_is_left(tiny_bundle, folder, temporary):
    names = ("a.mp4", "b.npy", "c.mp4", "missing.mp4")
    with open_model(tiny_bundle) as model:
        rows = [ListedVideo(folder / name) for name in names]
        here = {row["video"].rpartition("/")[2]: row for row in model.records(rows)}
        far = {}
        for row in model.records(ListedVideo.of(f"memory://videos/{name}") for name in names):
            far[row["video"].removeprefix("memory://videos/")] = row
        assert model.classify("memory://videos/a.mp4").label == here["a.mp4"]["label"]
        with pytest.raises(VideoError, match="memory://videos/c.mp4"):
            model.classify("memory://videos/c.mp4")
    for name in ("a.mp4", "b.npy"):
        assert here[name]["status"] == "ok" and far[name]["file"] is None
        assert {k: v for k, v in here[name].items() if k not in TIMES} == {
            k: v for k, v in far[name].items() if k not in TIMES
        }
    assert far["c.mp4"]["error"] == here["c.mp4"]["error"].replace(f"{folder}/", "memory://videos/")
    assert "'memory://videos/missing.mp4' cannot be fetched" in far["missing.mp4"]["error"]
    assert list(temporary.iterdir()) == []


def test_a_list_may_name_uris_and_lie_behind_one(tmp_path, folder):
    with fsspec.open("memory://videos/list.csv", "wt") as file:
        file.write(f"video\na.mp4\n{folder}/b.npy\nmemory://other/c.mp4\n")
    expected = ["memory://videos/a.mp4", f"{folder}/b.npy", "memory://other/c.mp4"]
    assert list(map(str, open_list("memory://videos/list.csv"))) == expected
    listing = tmp_path / "list.csv"
    listing.write_text("video\na.mp4\nmemory://videos/a.mp4\n")
    assert list(map(str, open_list(listing))) == [str(tmp_path / "a.mp4"), "memory://videos/a.mp4"]
    with pytest.raises(ListError, match="'memory://videos/a.mp4' is a URI, which only classify reads"):
        read_list(listing)
    with pytest.raises(ListError, match="'memory://videos/none.csv' cannot be listed"):
        open_list("memory://videos/none.csv")


def test_a_folder_or_a_pattern_behind_a_uri_is_a_list_as_one_here_is(tmp_path, monkeypatch):
    for name in ("b.mp4", "a.webm", "notes.txt", "deep/c.mp4", "deep/e[1]/d.npy", "elsewhere/e f.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
        with fsspec.open(f"memory://corpus/{name}", "wb") as file:
            file.write(b"x")
    for wanted in ("", "/", "/deep", "/*.mp4", "/**/*.mp4", "/deep/**", "/*/*.mp4", "/deep/e[1]"):
        here = [str(row).removeprefix(str(tmp_path)) for row in open_list(f"{tmp_path}{wanted}")]
        far = list(open_list(f"memory://corpus{wanted}"))
        assert here and [str(row).removeprefix("memory://corpus") for row in far] == here, wanted
        assert all(row.uri == str(row) for row in far)
    for uri, message in (
        ("memory://corpus/none*.mp4", "list 'memory://corpus/none.*' fits no file. Expected a pattern"),
        ("memory://corpus/none/", "'memory://corpus/none/' cannot be listed .*Expected a folder, a pattern or a file"),
        ("gcs://a/*.mp4", "'gcs://a/.*' cannot be listed without another package: .*gcsfs"),
    ):
        with pytest.raises((ListError, MissingPackageError), match=message):
            open_list(uri)
    fsspec.filesystem("memory").makedirs("/corpus/empty/folder")
    with pytest.raises(ListError, match="list 'memory://corpus/empty/' is a folder without videos. Expected videos in"):
        open_list("memory://corpus/empty/")


def test_what_is_not_installed_is_said_in_one_line(monkeypatch, temporary):
    with pytest.raises(MissingPackageError, match="'gcs://a/b.mp4' cannot be fetched without another package: .*gcsfs"):
        fetch("gcs://a/b.mp4")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        MissingPackageError, match=r"needs the package 'fsspec'. Install it: pip install 'dynvid\[remote\]'"
    ):
        fetch("memory://a.mp4")
    assert list(temporary.iterdir()) == []
