"""Writing engines: killed, out of space or raced, what is left is no engine or a whole one."""

import errno
import json
import os
import stat
import subprocess
import sys

import pytest
from engine_samples import KEY, WANTED, plan_of, put
from samples import ROOT

from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.errors import EngineFileError, MissingEngineError, ResourceError, UsageError

_WRITER = """
import json, os, resource, signal, sys
from pathlib import Path
from engine_samples import KEY, WANTED, plan_of, put
from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.errors import ResourceError
"""

_KILLED_AT_EVERY_CALL = """
def die(signal_number=signal.SIGKILL):
    os.kill(os.getpid(), signal_number)

def child(folder, fatal):
    calls = 0
    def counted(call):
        def step(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == fatal:
                die()
            return call(*arguments, **named)
        return step
    for name in ("open", "fsync", "replace", "rename", "unlink", "mkdir", "close"):
        setattr(os, name, counted(getattr(os, name)))
    put(EngineCache(folder), payload=b"new")

def prepare(folder, before):
    cache = EngineCache(folder)
    if before != "nothing":
        engine = put(cache, payload=b"old")
        if before == "damaged":
            (folder / engine.plan).write_bytes(plan_of(b"odd"))

for before in ("nothing", "damaged", "whole"):
    for fatal in range(1, 99):
        folder = Path(sys.argv[1], before, f"{fatal}.engines")
        prepare(folder, before)
        process = os.fork()
        if process == 0:
            child(folder, fatal)
            os._exit(0)
        if os.waitpid(process, 0)[1] == 0:
            break
"""

_KILLED_IN_THE_MIDDLE_OF_A_FILE = """
for length, limit in ((2048, 1), (2048, 1000), (2048, 2047), (300, 400), (2048, 2048)):
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        EngineCache(Path(sys.argv[1], f"{length}-{limit}.engines")).write(KEY, plan_of(length=length), 0.5, {})
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGXFSZ)
"""

_DISK_FULL = """
length, limit = map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    EngineCache(Path(sys.argv[1])).write(KEY, plan_of(length=length), 0.5, {})
except ResourceError as error:
    print(error)
"""

_RACE = """
for turn in range(6):
    folder = Path(sys.argv[1], f"{turn}.engines")
    gate, ready = os.pipe()
    writers = []
    for writer in range(8):
        if os.fork() == 0:
            os.close(ready)
            os.read(gate, 1)  # until all are there
            engine = put(EngineCache(folder), payload=str(writer).encode())
            os.write(1, (json.dumps([turn, engine.plan_sha256]) + "\\n").encode())
            os._exit(0)
    os.close(ready)
    os.close(gate)
    for writer in range(8):
        assert os.wait()[1] == 0
"""


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", _WRITER + script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def require_none_or_whole(cache):
    """Return the engine that a dead writer left, or None; check that the next writer leaves nothing else."""
    engine = cache.has(KEY)
    if engine is None:
        with pytest.raises((MissingEngineError, EngineFileError)):
            cache.read(cache.find(WANTED))
    else:
        assert cache.find(WANTED) == engine
        cache.read(engine)
    put(cache, payload=b"next")
    assert cache.find(WANTED) == (engine or cache.has(KEY))
    assert sorted(os.listdir(cache.folder)) == [".lock", f"{KEY.name}.json", f"{KEY.name}.plan"]
    return engine


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return the folders that writers left, killed at their first, second, ... system call."""
    folder = tmp_path_factory.mktemp("killed")
    run(_KILLED_AT_EVERY_CALL, folder)
    return folder


@pytest.mark.parametrize("before", ["nothing", "damaged", "whole"])
def test_a_writer_killed_at_any_system_call_leaves_no_engine_or_a_whole_one(killed, before):
    folders = sorted((killed / before).iterdir(), key=lambda folder: int(folder.stem))
    engines = [require_none_or_whole(EngineCache(folder)) for folder in folders]
    whole = [engine is not None for engine in engines]
    assert len(folders) > (3 if before == "whole" else 20)
    assert whole == sorted(whole), "once it is whole it stays whole"
    assert whole[-1], "the last one was not killed"
    if before == "whole":
        assert all(whole) and len({engine.plan_sha256 for engine in engines}) == 1


def test_a_writer_killed_in_the_middle_of_a_file_leaves_no_engine(tmp_path):
    assert run(_KILLED_IN_THE_MIDDLE_OF_A_FILE, tmp_path) == ["True"] * 4 + ["False"]
    left = {folder.stem: require_none_or_whole(EngineCache(folder)) for folder in tmp_path.iterdir()}
    assert [name for name, engine in left.items() if engine] == ["2048-2048"]


@pytest.mark.parametrize(("length", "limit"), [(2048, 1000), (300, 400)])
def test_a_file_that_cannot_grow_leaves_no_engine_and_says_so(tmp_path, length, limit):
    folder = tmp_path / "k400.engines"
    said = run(_DISK_FULL, folder, length, limit)
    assert len(said) == 1 and "could not be written (File too large); no part of it remains. Free some space" in said[0]
    assert os.listdir(folder) == [".lock"]
    assert require_none_or_whole(EngineCache(folder)) is None


@pytest.mark.parametrize("call", range(4))
def test_a_full_disk_at_any_moment_leaves_no_engine_and_says_so(tmp_path, monkeypatch, call):
    cache = EngineCache(tmp_path / "k400.engines")
    cache.folder.mkdir()
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"could not be written \(No space left on device\)") as caught:
        put(cache)
    assert caught.value.exit_code == 6
    assert not {".new.plan", ".new.json"} & set(os.listdir(cache.folder))
    whole = require_none_or_whole(cache)
    assert (whole is not None) == (call == 3), "only after the sidecar has its name is there an engine"


def test_eight_writers_of_one_engine_leave_one(tmp_path):
    reports = [json.loads(line) for line in run(_RACE, tmp_path)]
    for turn in range(6):
        cache = EngineCache(tmp_path / f"{turn}.engines")
        engine = cache.find(WANTED)
        cache.read(engine)
        assert [sha256 for t, sha256 in reports if t == turn] == [engine.plan_sha256] * 8
        assert sorted(os.listdir(cache.folder)) == [".lock", f"{KEY.name}.json", engine.plan]


def test_a_whole_engine_is_never_replaced(tmp_path):
    cache = EngineCache(tmp_path / "k400.engines")
    first = put(cache, payload=b"one")
    assert put(cache, payload=b"two") == first
    assert cache.read(first) == plan_of(b"one")


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_the_owner_may_write_what_is_written(tmp_path, umask):
    cache = EngineCache(tmp_path / "k400.engines")
    old = os.umask(umask)
    try:
        put(cache)
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (cache.folder, *cache.folder.iterdir())}
    assert modes.pop("k400.engines") == 0o755
    assert len(modes) == 3 and set(modes.values()) == {0o644}
    cache.read(cache.find(WANTED))


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "k400.engines").write_text("hello")
    with pytest.raises(UsageError, match="is a file, expected a folder for engines: give another --engines"):
        put(EngineCache(tmp_path / "k400.engines"))
