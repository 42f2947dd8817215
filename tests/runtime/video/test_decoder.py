"""A video that crashes, hangs or bloats the decoder costs itself, and nothing else."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dynvid.grid.errors import EnvironmentFaultError, FramesError, UsageError, VideoError
from dynvid.grid.preprocessing import Preprocessing
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.file import FrameArray, VideoFile

SMALL = Preprocessing(short_side=64, crop=56)
SAMPLES = 16
PERMUTED = [(2 * n, 2 * n + 1) for n in (0, 3, 5, 6, 1, 2, 4, 7)]
PAUSE_S = 0.2
OPTIONS = {"g": "12", "bf": "2", "threads": "1", "preset": "ultrafast"}


def encode(path, seed, frames=60, size=(96, 64)):
    rng = np.random.default_rng(seed)
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=30, options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            small = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            image = np.ascontiguousarray(small.repeat(size[1] // 4, 0).repeat(size[0] // 6, 1))
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = i, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [encode(folder / f"clip{seed}.mp4", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def expected(clips):
    """All frames of every clip, [samples, 3, crop, crop] each."""
    return [whole(VideoFile(path, SMALL, SAMPLES)) for path in clips]


@pytest.fixture
def decoder():
    with Decoder(timeout_s=20) as decoder:
        yield decoder


def whole(source):
    with source:
        return source.read(range(SAMPLES))


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def hold(pid):
    """Stop a process, and return when it has stopped: the signal alone comes at some later time."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 20
    while state(pid) != "T":
        assert time.monotonic() < deadline, f"process {pid} did not stop"
        time.sleep(0.001)


def worked_s(pid):
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def stopped(pid):
    """Hold a child, so that the next request to it is certainly under way; then kill it."""
    hold(pid)
    killer = threading.Timer(PAUSE_S, os.kill, (pid, signal.SIGKILL))
    killer.start()
    yield
    killer.join()


def gone(pid):
    """Whether a process ends within half a minute; one that nobody waits for has ended too."""
    for _ in range(600):
        try:
            if state(pid) == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_the_child_gives_what_the_file_gives(decoder, clips):
    with decoder.open(clips[0], SMALL, SAMPLES) as far, VideoFile(clips[0], SMALL, SAMPLES) as near:
        for pair in PERMUTED:
            np.testing.assert_array_equal(far.read(pair), near.read(pair))
            assert (far.frames_total, far.frames_decoded) == (near.frames_total, near.frames_decoded)
            assert (far.damaged, far.warnings) == (near.damaged, near.warnings) == (False, [])
        assert far.decode_ms > 0
    assert decoder.pid != os.getpid()


def test_turned_videos_come_through(decoder, clips, tmp_path):
    data, path = bytearray(clips[0].read_bytes()), tmp_path / "turned.mp4"
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 20] = struct.pack(">5i", 0, 1 << 16, 0, -1 << 16, 0)
    path.write_bytes(data)
    near = whole(VideoFile(path, SMALL, SAMPLES))
    np.testing.assert_array_equal(whole(decoder.open(path, SMALL, SAMPLES)), near)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(whole(decoder.open(clips[0], SMALL, SAMPLES)), near)


def test_warnings_and_damage_come_back(decoder, clips, tmp_path):
    short = encode(tmp_path / "short.mp4", 0, frames=3)
    with decoder.open(short, SMALL, SAMPLES) as source:
        assert (source.damaged, len(source.warnings)) == (False, 1)
    cut = encode(tmp_path / "cut.mkv", 0)
    cut.write_bytes(cut.read_bytes()[:-3000])
    with decoder.open(cut, SMALL, SAMPLES) as source:
        assert source.damaged
        assert source.warnings[0].startswith("truncated:")


def test_several_videos_are_read_in_turns(decoder, clips, expected):
    sources = [decoder.open(path, SMALL, SAMPLES) for path in clips]
    for pair in PERMUTED:
        for source, frames in zip(sources, expected, strict=True):
            np.testing.assert_array_equal(source.read(pair), frames[list(pair)])
    for source in sources:
        source.close()


def test_threads_take_turns(decoder, clips, expected):
    right = []

    def work(index):
        for _ in range(5):
            right.append(np.array_equal(whole(decoder.open(clips[index], SMALL, SAMPLES)), expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 15


def test_a_killed_child_costs_the_video_it_was_reading(decoder, clips, expected):
    guilty, other = (decoder.open(path, SMALL, SAMPLES) for path in clips[:2])
    np.testing.assert_array_equal(guilty.read((0, 1)), expected[0][:2])
    np.testing.assert_array_equal(other.read((0, 1)), expected[1][:2])
    before, decoded = decoder.pid, other.frames_decoded
    with stopped(decoder.pid), pytest.raises(VideoError, match=r"clip0.mp4'.*process died \(SIGKILL\)"):
        guilty.read((6, 7))
    np.testing.assert_array_equal(other.read((6, 7)), expected[1][6:8])
    assert other.frames_decoded > decoded
    assert decoder.pid != before
    now = decoder.pid
    with pytest.raises(VideoError, match="SIGKILL"):
        guilty.read((6, 7))
    assert decoder.pid == now
    np.testing.assert_array_equal(whole(decoder.open(clips[2], SMALL, SAMPLES)), expected[2])


def test_a_child_that_dies_while_a_video_is_opened_costs_that_video(decoder, clips, expected):
    whole(decoder.open(clips[0], SMALL, SAMPLES))
    with stopped(decoder.pid), pytest.raises(VideoError, match=r"clip1.mp4'.*SIGKILL"):
        decoder.open(clips[1], SMALL, SAMPLES)
    np.testing.assert_array_equal(whole(decoder.open(clips[1], SMALL, SAMPLES)), expected[1])


def test_a_hanging_child_is_killed(clips, expected):
    with Decoder(timeout_s=2, stall_s=3) as decoder:
        source = decoder.open(clips[0], SMALL, SAMPLES)
        source.read((0, 1))
        pid = decoder.pid
        hold(pid)
        with pytest.raises(VideoError, match=r"clip0.mp4'.*did not answer within 3 s and was killed"):
            source.read((2, 3))
        assert gone(pid)
        np.testing.assert_array_equal(whole(decoder.open(clips[1], SMALL, SAMPLES)), expected[1])


def test_the_limit_counts_work_and_not_waiting(clips, expected, tmp_path):
    """A child that is kept from working is not blamed for it; one that works too long is."""
    with Decoder(timeout_s=0.5) as decoder:
        source = decoder.open(clips[0], SMALL, SAMPLES)
        hold(decoder.pid)
        threading.Timer(1.5, os.kill, (decoder.pid, signal.SIGCONT)).start()
        np.testing.assert_array_equal(source.read((0, 1)), expected[0][:2])
    large = encode(tmp_path / "large.mp4", 0, frames=40, size=(1920, 1080))
    with Decoder(timeout_s=0.02) as hasty:
        with pytest.raises(VideoError, match=r"takes more than 0.02 s of CPU time .* Give --decode-timeout"):
            whole(hasty.open(large, SMALL, SAMPLES))
        assert gone(hasty.pid)


def test_the_limit_is_that_of_the_whole_video(clips, expected, tmp_path):
    large, took_s = encode(tmp_path / "large.mp4", 0, frames=200, size=(1920, 1080)), []

    def read_each(decoder):
        source = decoder.open(large, SMALL, SAMPLES)
        for sample in range(SAMPLES):
            before_s = worked_s(decoder.pid)
            source.read((sample,))
            took_s.append(worked_s(decoder.pid) - before_s)

    with Decoder() as decoder:
        whole(decoder.open(clips[0], SMALL, SAMPLES))
        before_s = worked_s(decoder.pid)
        read_each(decoder)
        limit_s = (worked_s(decoder.pid) - before_s) / 2
    assert max(took_s) < limit_s / 2, took_s
    with Decoder(timeout_s=limit_s) as decoder:
        with pytest.raises(VideoError, match=r"large.mp4' takes more than .* s of CPU time to decode. Give --decode-t"):
            read_each(decoder)
        assert len(took_s) > SAMPLES + 1  # no single read took too long
        np.testing.assert_array_equal(whole(decoder.open(clips[0], SMALL, SAMPLES)), expected[0])


def test_a_child_that_dies_between_requests_costs_nothing(decoder, clips, expected):
    with decoder.open(clips[0], SMALL, SAMPLES) as source:
        source.read((0, 1))
        os.kill(decoder.pid, signal.SIGKILL)
        assert gone(decoder.pid)
        np.testing.assert_array_equal(source.read((6, 7)), expected[0][6:8])


def test_an_interrupted_read_leaves_no_stale_frames(clips, expected, tmp_path):
    """In a process of its own: an interrupt that comes late must not end the tests."""
    script = f"""
        import os, signal
        import numpy as np
        from dynvid.grid.preprocessing import Preprocessing
        from dynvid.runtime.video.decoder import Decoder
        with Decoder() as decoder:
            source = decoder.open({str(clips[0])!r}, Preprocessing(short_side=64, crop=56), {SAMPLES})
            os.kill(decoder.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, decoder.pid, os.WSTOPPED | os.WNOWAIT)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, {PAUSE_S})
            try:
                source.read((0, 1))
            except KeyboardInterrupt:
                np.save({str(tmp_path / "later.npy")!r}, source.read((6, 7)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "later.npy"), expected[0][6:8])


def test_a_video_that_needs_too_much_memory_is_refused(clips, expected, tmp_path):
    big = encode(tmp_path / "big.mp4", 0, frames=6, size=(1920, 1080))
    with Decoder() as roomy:
        assert whole(roomy.open(big, SMALL, SAMPLES)).shape == (SAMPLES, 3, 56, 56)
    with Decoder() as probe:
        whole(probe.open(clips[0], SMALL, SAMPLES))
        status = Path(f"/proc/{probe.pid}/status").read_text()
    used = int(status.split("VmPeak:")[1].split()[0]) * 1024
    with Decoder(memory_bytes=used + (6 << 20)) as decoder:
        with pytest.raises(VideoError, match=r"big\.mp4'"):
            whole(decoder.open(big, SMALL, SAMPLES))
        np.testing.assert_array_equal(whole(decoder.open(clips[0], SMALL, SAMPLES)), expected[0])


def test_children_are_replaced_and_open_videos_go_on(clips, expected):
    with Decoder(files_per_child=2) as decoder:
        source = decoder.open(clips[0], SMALL, SAMPLES)
        source.read((0, 1))
        first = decoder.pid
        whole(decoder.open(clips[1], SMALL, SAMPLES))
        assert decoder.pid == first
        whole(decoder.open(clips[2], SMALL, SAMPLES))
        assert decoder.pid != first
        assert gone(first)
        np.testing.assert_array_equal(source.read((4, 5)), expected[0][4:6])


def test_a_video_that_changes_while_it_is_open_is_refused(decoder, tmp_path):
    path = encode(tmp_path / "changing.mp4", 0)
    with decoder.open(path, SMALL, SAMPLES) as source:
        source.read((0, 1))
        encode(path, 0, frames=30)
        os.kill(decoder.pid, signal.SIGKILL)
        assert gone(decoder.pid)
        with pytest.raises(VideoError, match="changed from 60 to 30 frames"):
            source.read((2, 3))


@pytest.mark.parametrize("content", [b"", b"no video\n" * 99, None], ids=["empty", "text", "missing"])
def test_refusals_of_the_child_are_one_line_and_leave_it_alive(decoder, clips, tmp_path, capfd, content):
    whole(decoder.open(clips[0], SMALL, SAMPLES))
    pid, path = decoder.pid, tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=r"bad\.mp4") as refusal:
        decoder.open(path, SMALL, SAMPLES)
    assert "\n" not in str(refusal.value)
    assert "Traceback" not in str(refusal.value)
    whole(decoder.open(clips[0], SMALL, SAMPLES))
    assert decoder.pid == pid
    assert capfd.readouterr() == ("", "")


def test_damaged_streams_print_nothing(decoder, clips, tmp_path, capfd):
    data = bytearray(clips[0].read_bytes())
    start = data.index(b"mdat") + 2000
    data[start : start + 3000] = bytes(3000)
    path = tmp_path / "hole.mp4"
    path.write_bytes(data)
    with contextlib.suppress(VideoError), decoder.open(path, SMALL, SAMPLES) as source:
        for pair in PERMUTED:
            source.read(pair)
        assert source.damaged
    assert capfd.readouterr() == ("", "")


def test_arrays_are_read_here(tmp_path):
    path = tmp_path / "frames.NPY"
    with path.open("wb") as file:
        np.save(file, np.full((16, 3, 56, 56), 0.5, np.float32))
    with Decoder() as decoder:
        with decoder.open(path, SMALL, SAMPLES) as source:
            assert isinstance(source, FrameArray)
            assert (source.read((3,)) == 0.5).all()
        with path.open("wb") as file:
            np.save(file, np.full((16, 3, 56, 56), np.nan, np.float32))
        with pytest.raises(FramesError, match="NaN"):
            decoder.open(path, SMALL, SAMPLES)
        assert decoder.pid is None


def test_closed_means_closed(clips):
    decoder = Decoder()
    source = decoder.open(clips[0], SMALL, SAMPLES)
    pid = decoder.pid
    left = decoder.open(clips[1], SMALL, SAMPLES)
    source.close()
    with pytest.raises(UsageError, match="the video is closed"):
        source.read((0, 1))
    decoder.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(UsageError, match="the decoder is closed"):
        left.read((0, 1))
    left.close()
    decoder.close()


def test_wrong_numbers_are_refused(decoder, clips):
    source = decoder.open(clips[0], SMALL, SAMPLES)
    with pytest.raises(UsageError, match=r"expected one or more numbers in \[0, 16\)"):
        source.read((16,))
    for wrong in ({"timeout_s": 0}, {"memory_bytes": 0}, {"files_per_child": 0}):
        with pytest.raises(UsageError, match="expected numbers above 0"):
            Decoder(**wrong)


def test_an_interpreter_that_cannot_start_is_not_blamed_on_the_video(clips, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Decoder() as decoder, pytest.raises(EnvironmentFaultError, match=r"died \(exit code 1\).*dynvid doctor"):
        decoder.open(clips[0], SMALL, SAMPLES)


def test_the_current_folder_is_not_imported_from(clips, expected, tmp_path, monkeypatch):
    (tmp_path / "av.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    with Decoder() as decoder:
        np.testing.assert_array_equal(whole(decoder.open(clips[0], SMALL, SAMPLES)), expected[0])


def test_a_forked_process_gets_a_child_of_its_own(decoder, clips, expected):
    with decoder.open(clips[0], SMALL, SAMPLES) as source:
        source.read((0, 1))
        pid = os.fork()
        if not pid:
            try:
                right = np.array_equal(source.read((6, 7)), expected[0][6:8])
                decoder.close()
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        before = decoder.pid
        np.testing.assert_array_equal(source.read((8, 9)), expected[0][8:10])
        assert decoder.pid == before


@pytest.mark.parametrize("death", ["SIGKILL", "SIGTERM"])
def test_the_child_ends_with_its_parent(clips, death):
    script = f"""
        import os, signal
        from dynvid.runtime.video.decoder import Decoder
        from dynvid.grid.preprocessing import Preprocessing
        decoder = Decoder()
        source = decoder.open({str(clips[0])!r}, Preprocessing(), 16)
        print(decoder.pid, flush=True)
        os.kill(os.getpid(), signal.{death})
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30)
    assert run.returncode == -getattr(signal, death)
    assert gone(int(run.stdout))
