import dataclasses
import itertools

import numpy as np
import pytest

from dynvid.grid.errors import UsageError, VideoError
from dynvid.grid.preprocessing import Preprocessing, sample_frames
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.file import VideoFile
from dynvid.runtime.video.frames import FrameArray
from dynvid.runtime.video.view import AS_DEPLOYED, View, Window
from dynvid.training.clips import encode

WIDE = Preprocessing(short_side=64, crop=56)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Frames of 96 x 72 pixels at 10 a second: frame i is grey 4i, with red growing to the right, green downwards."""
    frames = np.empty((45, 72, 96, 3), np.uint8)
    frames[..., 0] = np.linspace(0, 200, 96, dtype=np.uint8)
    frames[..., 1] = np.linspace(0, 200, 72, dtype=np.uint8)[:, None]
    frames[..., 2] = 4 * np.arange(45, dtype=np.uint8)[:, None, None]
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    encode(frames, path, fps=10)
    return path


def pixels(video, view, samples=4, preprocessing=WIDE):
    with VideoFile(video, preprocessing, samples, view) as source:
        return source.pixels(range(samples))


def test_the_middle_of_every_part_is_the_rule_of_deployment():
    for frames, samples in itertools.product((1, 2, 7, 15, 16, 17, 45, 100, 1999), (1, 3, 8, 16)):
        assert sample_frames(frames, samples, [0.5] * samples) == sample_frames(frames, samples)


def test_a_draw_reaches_every_frame_of_its_part_and_no_other():
    lowest, highest = sample_frames(45, 16, [0.0] * 16), sample_frames(45, 16, [1 - 1e-16] * 16)
    assert lowest == [0, 2, 5, 8, 11, 14, 16, 19, 22, 25, 28, 30, 33, 36, 39, 42]
    assert highest[-1] == 44  # the tail, which TSN's whole-number step leaves out
    assert all(low <= high for low, high in zip(lowest, highest, strict=True))
    assert sample_frames(3, 4, [0.9, 0.9, 0.9, 0.9]) == [0, 1, 2, 2]  # short: neighbours repeat


@pytest.mark.parametrize("draws", [[0.5], [0.5, 1.0], [-0.1, 0.5], [float("nan"), 0.5]])
def test_draws_that_are_none_are_refused(draws):
    with pytest.raises(UsageError, match="expected 2 numbers in"):
        sample_frames(10, 2, draws)


def test_windows_are_those_of_tsn():
    # a frame of 340 x 256 for a crop of 224, scales 1, .875, .75, .66 (TSN, github.com/yjxiong/tsn-pytorch)
    assert Window(0.875, 0.875, 0, 0).box(256, 340, 224) == (0, 0, 224, 224)
    assert Window(1, 0.875, 4, 4).box(256, 340, 224) == (0, 116, 256, 224)
    assert Window(0.66, 0.75, 1, 3).box(256, 340, 224) == (22, 111, 168, 192)
    assert Window(0.87, 0.88, 2, 2).box(256, 340, 224) == (16, 58, 224, 224)  # 222 and 225: within 3 pixels
    assert Window(1, 1, 2, 2).box(30, 30, 32) == (0, 0, 30, 30)  # never larger than the frame


def test_training_and_deployment_see_equal_pixels_for_equal_indices(video):
    middle = View(draws=(0.5,) * 4)
    np.testing.assert_array_equal(pixels(video, middle), pixels(video, AS_DEPLOYED))
    # a window as large as the crop, in the middle: no second resizing
    window = View(window=Window(56 / 64, 56 / 64, 2, 2))
    np.testing.assert_array_equal(pixels(video, window)[:, :, :], pixels(video, AS_DEPLOYED))
    mirrored = pixels(video, View(mirrored=True))
    np.testing.assert_array_equal(mirrored, pixels(video, AS_DEPLOYED)[:, :, ::-1])


def test_a_window_shows_its_part_of_the_frame(video):
    whole = pixels(video, View(window=Window(1, 1, 0, 0)))  # 64 x 64, top left, made 56 x 56
    corner = pixels(video, View(window=Window(0.5, 0.5, 4, 4)))
    assert whole.shape == corner.shape == (4, 56, 56, 3)
    red, green = whole[0, 28, :, 0].astype(int), whole[0, :, 28, 1].astype(int)
    assert red[0] < 6 and 140 < red[-1] < 160 and green[0] < 6 and green[-1] > 190  # 64 of 85 columns, all rows
    red, green = corner[0, 28, :, 0].astype(int), corner[0, :, 28, 1].astype(int)
    assert 115 < red[0] < 130 and red[-1] > 190 and 90 < green[0] < 110 and green[-1] > 190


def test_a_part_of_a_video_is_sampled_like_a_video_of_its_own(video):
    found = pixels(video, View(start_s=1.0, end_s=3.0), samples=5)[:, 28, 28, 2].astype(int)  # frames 10 to 29
    np.testing.assert_allclose(found / 4, [10 + index for index in sample_frames(20, 5)], atol=1)
    tail = pixels(video, View(start_s=4.3), samples=2)[:, 28, 28, 2].astype(int)  # frames 43 and 44
    np.testing.assert_allclose(tail / 4, [43, 44], atol=1)
    with pytest.raises(VideoError, match=r"no frame from 9 s to 12 s: it ends after 4.4 s"):
        pixels(video, View(start_s=9.0, end_s=12.0))


def test_the_decoders_process_and_arrays_show_the_same_view(video):
    view = View((0.1, 0.2, 0.3, 0.99), Window(0.75, 0.66, 3, 1), mirrored=True, start_s=0.5, end_s=4.0)
    assert View.from_json(dataclasses.asdict(view)) == view
    with Decoder() as decoder, decoder.open(video, WIDE, 4, view) as source:
        np.testing.assert_array_equal(source.pixels(range(4)), pixels(video, view))
    raw = np.random.default_rng(0).integers(0, 255, (9, 72, 96, 3), np.uint8)
    seen = FrameArray(raw, WIDE, 3, View((0.0, 0.0, 0.99), mirrored=True)).pixels([0, 1, 2])
    plain = FrameArray(raw, WIDE, 9).pixels([0, 3, 8])
    np.testing.assert_array_equal(seen, plain[:, :, ::-1])
