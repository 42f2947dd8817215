"""A child process that dies, hangs, talks nonsense or loses its parent."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dynvid.grid.errors import EnvironmentFaultError, ResourceError
from dynvid.runtime.child_process import ChildFailure, ChildProcess

CHILD = "import os, signal, sys, time\nfrom dynvid.runtime.child_process import *\nreplies = open_replies()\n"


@pytest.fixture
def start():
    children = []

    def make(code):
        children.append(ChildProcess(CHILD + textwrap.dedent(code)))
        return children[-1]

    yield make
    for child in children:
        child.stop(at_once=True)


def test_messages_of_any_size_go_both_ways_beside_what_is_printed(start):
    child = start("""
        for message in requests():
            print("chatter " * 100_000, flush=True)
            send(replies, message[::-1], b"tail")
    """)
    for size in (0, 1, 3 << 20):
        message, tail = os.urandom(size), bytearray(4)
        child.send(message)
        assert child.receive(20) == message[::-1]
        child.fill(memoryview(tail))
        assert tail == b"tail"
    assert 0 < len(child.heard) <= 1 << 16
    child.stop()
    assert child.process.returncode == 0
    child.stop()


@pytest.mark.parametrize(
    ("code", "what", "number"),
    [
        ("print('first\\n last\\x1b words \\n'); sys.exit(3)", r"^died \(exit code 3\): last\? words$", 3),
        ("sys.exit(0)", r"^died \(exit code 0\)$", 0),
        ("print('free()', flush=True); os.kill(os.getpid(), 6)", r"^died \(SIGABRT\): free\(\)$", -6),
        ("send(replies, bytes(11)); time.sleep(60)", "^gave no valid answer and was killed$", -9),
        ("time.sleep(60)", "^did not answer within 2 s and was killed$", -9),
        ("os.close(2); time.sleep(60)", "^did not answer within 2 s and was killed$", -9),
    ],
)
def test_a_failure_says_what_happened(start, code, what, number):
    child = start(code)
    with pytest.raises(ChildFailure, match=what) as failure:
        child.receive(2, most=10)
    assert failure.value.code == number
    assert not child.alive()


def test_a_message_to_the_dead_is_a_failure(start):
    child = start("sys.exit('last words')")
    child.process.wait()
    with pytest.raises(ChildFailure, match="exit code 1.: last words"):
        child.send(bytes(1 << 20))


def test_what_expects_no_more_messages_ends_with_its_parent():
    script = f"""
        import os
        from dynvid.runtime.child_process import ChildProcess
        child = ChildProcess({CHILD + "end_with_the_parent(); send(replies, b''); time.sleep(60)"!r})
        child.receive(20)
        print(child.process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30)
    assert run.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(run.stdout)}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("it goes on")


@pytest.mark.parametrize("program", [None, "", "/missing/python"])
def test_without_the_path_of_python_no_process_starts_and_it_says_so(monkeypatch, program):
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(EnvironmentFaultError, match="sys.executable.*Start Python by its path, or set sys.executable"):
        ChildProcess("")


def test_a_system_that_starts_no_more_processes_is_named(monkeypatch):
    def popen(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(ResourceError, match="a process cannot be started .*: allow more processes .ulimit -u."):
        ChildProcess("")
