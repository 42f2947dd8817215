import ast
import threading
import time

import numpy as np
import pytest

from dynvid.runtime.backends.optimised_graph import OptimisedGraph, pack, unpack
from dynvid.runtime.video.frames import FrameArray

from .test_file import SAMPLES, SMALL


@pytest.fixture
def at_once(monkeypatch):
    """Return a list of how many threads were within ``ast.literal_eval``, one entry a call."""
    plain, inside, found = ast.literal_eval, threading.Semaphore(0), []

    def slow(text):
        inside.release()
        time.sleep(0.01)
        found.append(inside._value)
        value = plain(text)
        assert inside.acquire(blocking=False)
        return value

    monkeypatch.setattr(ast, "literal_eval", slow)
    return found


def test_one_thread_at_a_time_parses_a_header(tmp_path, at_once):
    np.save(tmp_path / "a.npy", np.zeros((20, 64, 64, 3), np.uint8))
    packed = pack(OptimisedGraph(b"graph", {f"w{n}": np.zeros(n) for n in range(4)}, (), 16))
    go = threading.Barrier(4)

    def frames():
        go.wait()
        for _ in range(4):
            FrameArray(tmp_path / "a.npy", SMALL, SAMPLES).close()

    def weights():
        go.wait()
        assert len(dict(unpack(packed).weights)) == 4

    threads = [threading.Thread(target=read) for read in (frames, weights) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(at_once) == 2 * 4 + 2 * (3 + 4)
    assert set(at_once) == {1}
