"""What fails for every video is the fault of the installation, exit 5, and never a verdict on a video."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from fake_av import fake_av

from dynvid.exporter.engines.build import build_engines
from dynvid.grid.bundle import Bundle
from dynvid.grid.engines.cache import engines_folder
from dynvid.grid.errors import DecoderFaultError, VideoError
from dynvid.runtime.video import decoder as decoder_module
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.file import VideoFile
from dynvid.runtime.video.sample_clip import AS_IT_IS, FRAMES, sample_clip, sample_pixels

UNKNOWN_OPTION = """
    def failing(*_, **__):
        raise TypeError("open() got an unexpected option")
    av.open = failing
"""
ODD_VIDEO = """
    def failing_for_one(file, *arguments, **options):
        if "odd" in str(file):
            raise ZeroDivisionError("an odd video")
        return real(file, *arguments, **options)
    av.open = failing_for_one
"""


@pytest.fixture
def clips(tmp_path):
    paths = [tmp_path / name for name in ("one.mkv", "odd.mkv", "two.mkv")]
    for path in paths:
        path.write_bytes(sample_clip())
    return paths


@pytest.fixture
def with_av(tmp_path, monkeypatch):
    """Give children another PyAV; this process has its own already."""

    def change(changes):
        folder = tmp_path / "fake"
        folder.mkdir()
        monkeypatch.syspath_prepend(fake_av(folder, changes))

    return change


def read(decoder, path):
    with decoder.open(path, AS_IT_IS, FRAMES) as source:
        return source.pixels(range(FRAMES))


def test_the_made_clip_is_what_it_says(clips):
    with VideoFile(clips[0], AS_IT_IS, FRAMES) as source:
        pixels = source.pixels(range(FRAMES))
        assert (pixels == sample_pixels()).all() and (source.damaged, source.warnings) == (False, [])
    assert len({image.tobytes() for image in pixels}) == FRAMES


def test_a_pyav_that_knows_no_metadata_errors_decodes(with_av, clips):
    with_av("""
        def new_open(file, *arguments, **options):
            if "metadata_errors" in options:
                raise TypeError("open() got an unexpected keyword argument 'metadata_errors'")
            return real(file, *arguments, **options)
        av.open, av.__version__ = new_open, "19.0.2"
    """)
    with Decoder() as decoder:
        assert (read(decoder, clips[0]) == sample_pixels()).all()
        decoder.check()


def test_what_fails_for_a_made_clip_too_is_no_fault_of_the_video(with_av, clips):
    with_av(UNKNOWN_OPTION)
    with Decoder() as decoder:
        with pytest.raises(DecoderFaultError, match=r"one\.mkv'.*exit code 1.*TypeError: open\(\) got an une") as fault:
            read(decoder, clips[0])
        with pytest.raises(DecoderFaultError, match="a freshly made clip cannot be decoded: .*TypeError"):
            decoder.check()
    assert "run 'dynvid doctor'" in str(fault.value) and "\n" not in str(fault.value) and fault.value.exit_code == 5


@pytest.mark.parametrize(
    ("words", "quoted"),
    [("no libx\\n\\n", "no libx"), ("a\\x1b[1mb", r"a\?\[1mb"), ("x" * 9999, "x{300}\\. ")],
    ids=["plain", "escapes", "long"],
)
def test_a_child_that_does_not_start_is_quoted_in_one_line(with_av, clips, words, quoted):
    with_av(f"raise SystemExit('first\\n{words}')")
    started = rf"while it started, the decoder process died \(exit code 1\): {quoted}.*run 'dynvid doctor'"
    with Decoder() as decoder, pytest.raises(DecoderFaultError, match=started) as fault:
        read(decoder, clips[0])
    assert str(fault.value).isprintable() and "first" not in str(fault.value)


def test_an_exception_over_one_video_is_that_videos(with_av, clips):
    with_av(ODD_VIDEO)
    with Decoder() as decoder:
        first = decoder.open(clips[0], AS_IT_IS, FRAMES)
        with pytest.raises(
            VideoError, match=r"odd\.mkv'.*ZeroDivisionError: an odd video\. Other videos can be decoded here"
        ):
            read(decoder, clips[1])
        assert (read(decoder, clips[2]) == sample_pixels()).all()
        assert (first.pixels([3]) == sample_pixels()[3]).all()


def test_a_lack_of_memory_is_the_videos(with_av, clips):
    with_av("""
        import numpy
        def no_memory(*_, **__):
            raise MemoryError
        numpy.stack = no_memory
    """)
    with Decoder() as decoder, pytest.raises(VideoError, match="ran out of the memory that it may use. Leave it out"):
        read(decoder, clips[0])


def test_other_pixels_are_a_fault(monkeypatch):
    monkeypatch.setattr(decoder_module, "sample_pixels", lambda: sample_pixels() ^ 1)
    with Decoder() as decoder, pytest.raises(DecoderFaultError, match="comes out of the decoder with wrong pixels"):
        decoder.check()


def test_a_refused_clip_is_a_fault(with_av):
    with_av("av.open = lambda file, *_, **options: real(file, *_, **options) if 'w' in _ else real('/dev/null')")
    with Decoder() as decoder, pytest.raises(DecoderFaultError, match="a freshly made clip is refused: video '"):
        decoder.check()


def test_children_that_talk_much_do_not_block_and_leave_no_descriptor(with_av, clips):
    with_av("""
        import os
        def talking(file, *arguments, **options):
            os.write(2, b"chatter\\n" * 100_000)
            if "odd" in str(file):
                raise ZeroDivisionError("an odd video")
            return real(file, *arguments, **options)
        av.open = talking
    """)
    before = len(os.listdir("/proc/self/fd"))
    with Decoder(timeout_s=20) as decoder:
        assert (read(decoder, clips[0]) == sample_pixels()).all()
        with pytest.raises(VideoError, match=r"ZeroDivisionError: an odd video"):
            read(decoder, clips[1])
        assert len(decoder._child.heard if decoder._child else b"") <= 1 << 16
    assert len(os.listdir("/proc/self/fd")) == before


# the command line

WAYS = {"cells": [], "fused": ["--backend", "openvino"]}


@pytest.fixture(scope="module")
def bundles(tiny_bundle, tmp_path_factory):
    """Return copies of the bundle: one that runs its cells, one that streams fused segments."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("bundles")
    roots = {name: shutil.copytree(tiny_bundle.root, folder / name) for name in ("cells", "fused")}
    build_engines(Bundle.open(roots["fused"]), engines_folder(roots["fused"]), "openvino", "fp32")
    return roots


def dynvid(folder, changes, *arguments):
    """Return a finished ``dynvid`` process with another PyAV."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "dynvid.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": fake_av(folder, changes)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("way", WAYS)
def test_classify_ends_with_exit_code_5(bundles, clips, tmp_path, way):
    done = dynvid(tmp_path / "fake", UNKNOWN_OPTION, "classify", bundles[way], *clips, *WAYS[way], "--json")
    assert (done.returncode, done.stdout) == (5, "") and "Traceback" not in done.stderr
    assert way != "fused" or "fused segments of" in done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: video '") and "TypeError: open() got an unexpected option" in error
    assert error.endswith("run 'dynvid doctor'.")


@pytest.mark.parametrize("way", WAYS)
def test_classify_goes_on_after_an_odd_video(bundles, clips, tmp_path, way):
    done = dynvid(tmp_path / "fake", ODD_VIDEO, "classify", bundles[way], *clips, *WAYS[way], "--json")
    assert done.returncode == 7, done.stderr
    records = {json.loads(line)["video"]: json.loads(line) for line in done.stdout.splitlines()}
    assert [records[str(clip)]["status"] for clip in clips] == ["ok", "damaged", "ok"]
    assert "ZeroDivisionError: an odd video. Other videos can be decoded here" in records[str(clips[1])]["error"]


def test_doctor_tells_of_a_decoder_that_fails(tmp_path):
    done = dynvid(tmp_path / "fake", UNKNOWN_OPTION, "doctor")
    assert done.returncode == 5 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("videos: ")]
    assert "TypeError: open() got an unexpected option" in line
    assert "Install PyAV again: pip install --force-reinstall 'av" in line
