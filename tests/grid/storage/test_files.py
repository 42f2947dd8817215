"""Files: only regular ones are read, only new ones are written."""

import os

import pytest

from dynvid.grid.storage.files import read_file, write_file


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "it is a symbolic link"),
        ("folder", "not a regular file"),
        ("fifo", "not a regular file"),
        ("device", "not a regular file"),
        ("missing", "No such file"),
    ],
)
def test_only_a_regular_file_is_read_and_nothing_stays_open(tmp_path, kind, reason):
    path = tmp_path / "file"
    if kind == "link":
        (tmp_path / "other").write_bytes(b"other")
        path.symlink_to("other")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = type(path)("/dev/zero")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=reason):
        read_file(path)
    assert set(os.listdir("/proc/self/fd")) <= set(before)


def test_what_is_written_is_read(tmp_path):
    write_file(tmp_path / "file", b"content")
    assert read_file(tmp_path / "file") == b"content"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_nothing_is_written_over(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "file":
        path.write_bytes(b"old")
    else:
        path.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        write_file(path, b"new")
    assert kind == "link" or path.read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()
