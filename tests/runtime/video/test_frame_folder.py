from fractions import Fraction

import av
import numpy as np
import pytest

from dynvid.grid.errors import VideoError
from dynvid.grid.preprocessing import Preprocessing
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.frame_folder import FrameFiles, FrameFolder
from dynvid.runtime.video.frames import FrameArray
from dynvid.runtime.video.view import View, Window

SMALL = Preprocessing(short_side=32, crop=28)
FILES = FrameFiles("img_{:05d}.png", 1, 9)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, frames):
    for number, frame in enumerate(frames, 1):
        write(tmp_path / f"img_{number:05d}.png", frame, "png", "rgb24")
    return tmp_path


def write(path, frame, codec, pixels):
    context = av.CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt, context.time_base = *frame.shape[:2], pixels, Fraction(1, 25)
    packets = context.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels))
    path.write_bytes(b"".join(bytes(packet) for packet in [*packets, *context.encode(None)]))


@pytest.mark.parametrize("view", [View(), View((0.0, 0.4, 0.99), Window(0.75, 0.875, 1, 4), mirrored=True)])
def test_a_folder_shows_what_the_array_of_its_frames_shows(folder, frames, view):
    expected = FrameArray(frames, SMALL, 3, view).pixels([0, 1, 2])
    np.testing.assert_array_equal(FrameFolder(folder, FILES, SMALL, 3, view).pixels([0, 1, 2]), expected)
    with Decoder() as decoder, decoder.open(folder, SMALL, 3, view, FILES) as source:
        np.testing.assert_array_equal(source.pixels([2, 0]), expected[[2, 0]])
        assert source.frames_total == 9 and source.frames_decoded == 2


def test_a_part_of_a_folder_begins_at_its_first_frame(folder, frames):
    part = FrameFolder(folder, FrameFiles(FILES.pattern, 4, 3), SMALL, 3)
    np.testing.assert_array_equal(part.pixels([0, 1, 2]), FrameArray(frames[3:6], SMALL, 3).pixels([0, 1, 2]))


def test_jpeg_frames_are_near_to_what_was_written(tmp_path):
    ramp = np.repeat(np.linspace(0, 250, 64, dtype=np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    write(tmp_path / "000001.jpg", ramp, "mjpeg", "yuvj420p")
    found = FrameFolder(tmp_path, FrameFiles("{:06d}.jpg", 1, 1), SMALL, 1).pixels([0])
    expected = FrameArray(ramp[None], SMALL, 1).pixels([0])
    assert np.abs(found.astype(int) - expected).max() < 12


def test_frames_that_cannot_be_read_are_named(folder):
    (folder / "img_00005.png").unlink()
    (folder / "img_00001.png").write_bytes(b"not an image")
    source = FrameFolder(folder, FILES, SMALL, 9)
    with pytest.raises(VideoError, match=r"img_00005\.png': No such file"):
        source.pixels([4])
    with pytest.raises(VideoError, match=r"img_00001\.png' cannot be decoded"):
        source.pixels([0])
    (folder / "1.txt").touch()
    with pytest.raises(VideoError, match=r"expected \.jpg, "):
        FrameFolder(folder, FrameFiles("{}.txt", 1, 1), SMALL, 1).pixels([0])
    with pytest.raises(VideoError, match="is not a folder"):
        FrameFolder(folder / "missing", FILES, SMALL, 3)
    with Decoder() as decoder, pytest.raises(VideoError, match=r"img_00005\.png"):
        decoder.open(folder, SMALL, 9, files=FILES).pixels([4])
