"""A Ray cluster on this machine, whose actors and driver are killed: the rows are those of one process, each once."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from environments import environment
from fake_av import crashing_av
from samples import ROOT

from dynvid.runtime.results.merge import MEASURED
from dynvid.training.clips import write_clips

pytestmark = pytest.mark.full

VIDEOS, CLIPS, ACTORS, A_KILL_S, PATIENCE_S = 1000, 250, 4, 5.0, 900.0


@pytest.fixture(scope="module")
def python(exports):
    """Return the Python of an environment with Ray."""
    return environment(exports, "ray", ["cpu", "ray", "remote"])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, CLIPS, seed=4)
    return sorted((folder / "clips").glob("*.mp4"))


@pytest.fixture
def bundle(exports, tmp_path):
    """Return the demonstration's bundle, and thresholds for it."""
    found = exports.demonstration()
    open_ended = [0.9] * (len(found.manifest.route_cells) - 1)
    thresholds = {"bundle_sha256": found.sha256, "q": None, "thresholds": [*open_ended, None]}
    (tmp_path / "T.json").write_text(json.dumps(thresholds))
    return found.root


@pytest.fixture
def start(python, bundle, tmp_path):
    """Return a function that starts ``dynvid`` in the environment with Ray, in the folder of the test, until its end."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "dynvid").symlink_to(ROOT)
    crashing_av(tmp_path / "path", "poison", "getppid", "SIGKILL")
    started = []

    def run(command, *arguments):
        words = [command, *([bundle, "--thresholds", "T.json"] if command == "classify" else []), *arguments]
        process = subprocess.Popen(
            [python, "-m", "dynvid.cli", *map(str, words)],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "path")},
            stdout=subprocess.PIPE, stderr=said, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    with (tmp_path / "said").open("ab") as said:
        yield run
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def finish(start, tmp_path):
    """Return a function that runs ``dynvid``, and returns its exit code and what it said."""

    def run(*arguments):
        process = start(*arguments)
        before = (tmp_path / "said").stat().st_size
        out = process.communicate(timeout=PATIENCE_S)[0]
        return process.returncode, out + (tmp_path / "said").read_bytes()[before:].decode()

    return run


def write_list(path, videos):
    path.write_text("id,video\n" + "".join(f"{i:05d},{video}\n" for i, video in enumerate(videos)))
    return path


def by_id(path):
    """Return how many lines a file has, and each video's line without what is measured."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return len(records), {r["id"]: {k: v for k, v in r.items() if k not in MEASURED} for r in records}


def actors_of(driver):
    """Return the actors that classify for a driver: processes below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"MapWorker(MapBatches(Worker))" not in (entry / "cmdline").read_bytes():
                continue
            above = int(entry.name)
            while above not in (driver, 1, 0):
                above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it is gone
            continue
        if above == driver:
            found.append(int(entry.name))
    return found


def test_killed_actors_and_drivers_lose_nothing_double_nothing_and_change_no_bit(start, finish, clips, tmp_path):
    listing = write_list(tmp_path / "list.csv", [clips[i % CLIPS] for i in range(VIDEOS)])
    options = ["--data", listing, "--id-column", "id"]
    code, said = finish("classify", *options, "-o", "plain.jsonl", "--threads", 1)
    assert code == 0, said
    rng, actors, drivers = random.Random(0), 0, 0
    out = tmp_path / "out"
    driver, killed_s, began = start("classify", *options, "-o", out, "--ray", "--actors", ACTORS), 0.0, time.monotonic()
    while driver.poll() is None:
        time.sleep(0.1)
        assert time.monotonic() - began < PATIENCE_S
        found = actors_of(driver.pid)
        if found and time.monotonic() - killed_s > A_KILL_S:
            killed_s = time.monotonic()
            os.kill(rng.choice(found), signal.SIGKILL)
            actors += 1
        if drivers < 2 and len(list(out.glob("*.parquet"))) > drivers:
            driver.kill()
            driver.communicate()
            drivers += 1
            driver = start("classify", *options, "-o", out, "--ray", "--actors", ACTORS)
    driver.communicate()
    assert driver.returncode == 0, (tmp_path / "said").read_text()
    code, said = finish("merge", "out", "-o", "all.jsonl")
    print(f"{actors} actors and {drivers} drivers killed in {time.monotonic() - began:.0f} s; {said}")
    assert code == 0 and ", 0 failed, 0 missing" in said
    assert drivers == 2 and actors >= 3
    lines, found = by_id(tmp_path / "all.jsonl")
    assert lines == len(found) == VIDEOS and found == by_id(tmp_path / "plain.jsonl")[1]


def test_what_cannot_be_read_is_a_row_and_what_kills_its_actor_is_left_out(finish, clips, tmp_path):
    poison = tmp_path / "poison.mp4"
    poison.write_bytes(clips[0].read_bytes())
    videos = [*clips[:60], poison, tmp_path / "none.mp4", f"file://{clips[60]}"]
    options = ["--data", write_list(tmp_path / "list.csv", videos), "--id-column", "id", "-o", "out", "--ray"]
    code, said = finish("classify", *options, "--actors", 2)
    assert code == 7 and "2 of 63 videos could not be classified, see out" in said
    code, said = finish("classify", *options, "--actors", 1)
    assert code == 7 and "out: 63 of 63 videos are done already" in said
    code, said = finish("classify", *options, "--trace")
    assert code == 4 and "-o 'out' holds results of another run: trace False, here True" in said
    assert finish("merge", "out", "-o", "all.parquet")[0] == 0
    assert finish("merge", "all.parquet", "-o", "all.jsonl")[0] == 0
    lines, found = by_id(tmp_path / "all.jsonl")
    assert lines == 63 and [found[f"{i:05d}"]["status"] for i in range(60, 63)] == ["damaged", "damaged", "ok"]
    assert "killed its process 3 times when it was tried alone" in found["00060"]["error"]


def test_too_many_failures_end_it_and_it_goes_on_when_told(finish, clips, tmp_path):
    videos = [*(tmp_path / f"{i}.mp4" for i in range(40)), *clips[:200]]
    options = ["--data", write_list(tmp_path / "list.csv", videos), "--id-column", "id", "-o", "out", "--ray"]
    code, said = finish("classify", *options, "--actors", 1)
    assert code == 7 and "could not be classified, more than --max-failures 0.05 allows" in said
    code, said = finish("classify", *options, "--actors", 1, "--max-failures", 1)
    assert code == 7 and "40 of 240 videos could not be classified" in said
    code, said = finish("classify", *options, "--backend", "cuda")
    assert code == 2 and said.splitlines()[-1].startswith("Error: backend 'cuda': expected one of")


def test_lists_and_results_in_parquet(python, finish, clips, tmp_path):
    script = (
        "import pyarrow, pyarrow.parquet, sys; pyarrow.parquet.write_table(pyarrow.table("
        "{'clip': sys.argv[2:], 'class': ['walk', None] * 5, 'n': range(10)}), sys.argv[1])"
    )
    subprocess.run([python, "-c", script, tmp_path / "list.parquet", *clips[:10]], check=True)
    options = ["--data", "list.parquet", "--video-column", "clip", "--label-column", "class", "--id-column", "n"]
    assert finish("classify", *options, "-o", "a.jsonl")[0] == 0
    assert finish("classify", *options, "-o", "b.parquet")[0] == 0
    lines = (tmp_path / "b.parquet.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.parquet.jsonl").write_text("".join(lines[:4]))  # as after a kill
    (tmp_path / "b.parquet").unlink()
    code, said = finish("classify", *options, "-o", "b.parquet")
    assert code == 0 and "b.parquet: 4 of 10 videos are done already" in said
    assert finish("merge", "b.parquet", "-o", "c.jsonl")[0] == 0
    assert by_id(tmp_path / "c.jsonl") == by_id(tmp_path / "a.jsonl") and by_id(tmp_path / "c.jsonl")[0] == 10
    assert (tmp_path / "c.jsonl").read_text() == (tmp_path / "b.parquet.jsonl").read_text()
