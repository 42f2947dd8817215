import os

import pytest

from dynvid.grid.errors import ListError
from dynvid.training.data.disk import Disk, stem_of
from dynvid.training.data.record import FrameFiles


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("names", "frames", "gap"),
    [
        (["img_00001.jpg", "img_00002.jpg"], FrameFiles("img_{:05d}.jpg", 1, 2), 0),
        (["000000.png", "000001.png"], FrameFiles("{:06d}.png", 0, 2), 0),
        (["9.jpg", "10.jpg", "11.jpg"], FrameFiles("{}.jpg", 9, 3), 0),
        (["08.jpg", "09.jpg", "100.jpg", "10.jpg"], FrameFiles("{:02d}.jpg", 8, 93), 89),
        (["7_000001.JPG", "7_000002.JPG"], FrameFiles("7_{:06d}.JPG", 1, 2), 0),
        (["a{b}1.jpg"], FrameFiles("a{{b}}{}.jpg", 1, 1), 0),
        (["img_00001.jpg", "img_00004.jpg"], FrameFiles("img_{:05d}.jpg", 1, 4), 2),
        (["1.jpg", "01.jpg", "02.jpg"], FrameFiles("{}.jpg", 1, 2), 1),
        (["img_1.jpg", "flow_x_1.jpg", "flow_y_1.jpg", "x_1.jpg", "cover.jpg"], FrameFiles("img_{}.jpg", 1, 1), 0),
    ],
)
def test_numbered_images_are_a_sequence(tmp_path, names, frames, gap):
    touch(tmp_path, *names)
    found = Disk(tmp_path).folder(str(tmp_path))
    if names[0] == "1.jpg":  # two files would be one frame
        assert found.gaps != (0,)
        return
    assert (found.frames, found.gaps) == ((frames,), (gap,))
    assert found.is_clip and (gap or all((tmp_path / frames.name(i)).exists() for i in range(frames.count)))


def test_clips_are_files_and_folders_of_frames_at_any_depth(tmp_path):
    touch(tmp_path, "b/x.mp4", "b/deep/y.WEBM", "b/f/1.jpg", "a/n.txt", ".hidden/z.mp4", "b/._x.mp4", "b/cover1.jpg")
    assert [os.path.relpath(path, tmp_path) for path in Disk(tmp_path).below(str(tmp_path))] == [
        "b/x.mp4", "b/deep/y.WEBM", "b/f",
    ]  # fmt: skip


def test_a_clip_is_found_by_path_also_with_another_suffix_or_as_frames(tmp_path):
    touch(tmp_path, "b/x.mkv", "b/x.txt", "b/f/1.jpg", "b/odd.bin")
    disk = Disk(tmp_path)
    for asked, found in (
        ("b/x.mkv", ["b/x.mkv"]),
        ("./b/../b/x.mkv", ["b/x.mkv"]),
        ("b/x.avi", ["b/x.mkv"]),
        ("b/x", ["b/x.mkv"]),
        ("b/f.mp4", ["b/f"]),
        ("b/odd.bin", ["b/odd.bin"]),
        ("b/odd.mp4", []),
        ("c/x.mkv", []),
        ("b/x.mkv/y.mp4", []),
    ):
        assert disk.at(asked) == [str(tmp_path / path) for path in found], asked
    assert disk.at(str(tmp_path / "b/x.mkv")) == [str(tmp_path / "b/x.mkv")]


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    touch(tmp_path, "far/c/x.mp4", "near/y.mp4")
    (tmp_path / "near/far").symlink_to(tmp_path / "far")
    (tmp_path / "far/c/back").symlink_to(tmp_path / "near")
    found = Disk(tmp_path / "near")
    assert [os.path.relpath(path, tmp_path / "near") for path in found.below(found.root)] == ["y.mp4", "far/c/x.mp4"]
    assert len(found.named("x", any_case=False)) == 1
    assert found.named("X", any_case=False) == [] and len(found.named("X", any_case=True)) == 1


def test_a_link_to_a_folder_above_brings_no_clips_of_its_neighbours(tmp_path):
    touch(tmp_path, "a/x.mp4", "b/y.mp4")
    (tmp_path / "a/loop").symlink_to("..")
    found = Disk(tmp_path)
    assert list(found.below(str(tmp_path / "a"))) == [str(tmp_path / "a/x.mp4")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(ListError, match="Permission denied"):
        list(Disk(tmp_path).below(str(tmp_path)))


def test_only_the_suffix_of_a_video_is_no_part_of_a_name():
    assert [stem_of(name) for name in ("a.b.mp4", "a.b", "a.MKV", ".mp4", "v_x.y_1")] == [
        "a.b", "a.b", "a", ".mp4", "v_x.y_1",
    ]  # fmt: skip
