"""A real model process: killed, stopped, stuck, exchanged, and gone with its parent."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dynvid
from dynvid.grid.errors import InputRefusedError, ManifestError, UnavailableError
from dynvid.serving.answer import to_json
from dynvid.serving.request import Request
from dynvid.serving.service.queue import Service
from dynvid.serving.service.supervisor import Supervisor
from dynvid.training.clips import write_clips

VIDEOS = [np.random.default_rng(n).integers(0, 256, (9, 36, 44, 3), np.uint8) for n in range(4)]


def options(bundle, **more):
    return {"bundle": str(bundle), "threads": 1, "mode": "deadline", **more}


def request(video):
    return Request(video.tobytes(), video.shape)


def run(bundle, check, **more):
    """Run ``check(supervisor, service)`` beside a model process."""

    async def main():
        supervisor = Supervisor(options(bundle), **more)
        service = Service(supervisor)
        try:
            await supervisor.start()
            await check(supervisor, service)
        finally:
            await supervisor.close()

    asyncio.run(main())


async def until(condition, seconds=20.0):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.02)


def steady(answer):
    return {name: value for name, value in answer.items() if not name.endswith("_ms")}


@pytest.fixture(scope="module")
def wanted(tiny_bundle):
    with dynvid.load(tiny_bundle.root, threads=1) as model:
        return [steady(to_json(model.classify(video))) for video in VIDEOS]


def test_answers_are_those_of_the_model_and_files_are_closed(tiny_bundle, wanted, tmp_path):
    write_clips(tmp_path, 1, seed=5)
    clip = next(tmp_path.rglob("*.mp4"))
    with dynvid.load(tiny_bundle.root, threads=1) as model:
        of_clip = steady(to_json(model.classify(clip)))

    async def check(supervisor, service):
        before = len(os.listdir("/proc/self/fd"))
        found = await asyncio.gather(*(service.classify(request(video)) for video in VIDEOS))
        assert [steady(one.answer) for one in found] == wanted
        assert {one.bundle_sha256 for one in found} == {tiny_bundle.sha256}
        assert steady((await service.classify(Request(clip.read_bytes()))).answer) == of_clip
        for video, words in (
            (Request(b"not a video"), "video 'clip'"),
            (Request(bytes(3 * 30_000_000), (1, 30_000_000, 1, 3)), "frames given: uint8"),
        ):
            with pytest.raises(InputRefusedError, match=words) as caught:
                await service.classify(video)
            assert "/proc" not in str(caught.value)
        asked = asyncio.ensure_future(service.classify(request(VIDEOS[0])))
        await asyncio.sleep(0)
        asked.cancel()
        await until(lambda: supervisor.current.in_flight == 0)
        assert len(os.listdir("/proc/self/fd")) == before

    run(tiny_bundle.root, check)


def test_a_killed_process_fails_its_videos_and_is_started_again(tiny_bundle, wanted):
    async def check(supervisor, service):
        os.kill(supervisor.current.pid, signal.SIGSTOP)  # so that it has the videos when it dies
        asked = [asyncio.ensure_future(service.classify(request(video))) for video in VIDEOS]
        await asyncio.sleep(0.05)
        assert supervisor.current.in_flight and not await supervisor.ready(0.1)
        os.kill(supervisor.current.pid, signal.SIGKILL)
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[0], UnavailableError)
        for one, right in zip(found, wanted, strict=True):  # those that still waited go to the next process
            assert isinstance(one, UnavailableError) or steady(one.answer) == right
        await until(lambda: supervisor.restarts == 1)
        assert await supervisor.ready()
        assert steady((await service.classify(request(VIDEOS[0]))).answer) == wanted[0]

    run(tiny_bundle.root, check)


def test_videos_that_were_cancelled_make_room_once_the_process_lets_go_of_them(tiny_bundle, wanted):
    async def check(supervisor, service):
        os.kill(supervisor.current.pid, signal.SIGSTOP)  # so that it has not heard of them when they are cancelled
        gone = [asyncio.ensure_future(service.classify(request(VIDEOS[0]))) for _ in range(4)]
        await asyncio.sleep(0.05)
        for one in gone:
            one.cancel()
        await asyncio.wait(gone)
        asked = asyncio.ensure_future(service.classify(request(VIDEOS[1])))
        await asyncio.sleep(0.05)
        assert service.waiting == 1 and supervisor.current.in_flight
        os.kill(supervisor.current.pid, signal.SIGCONT)
        assert steady((await asyncio.wait_for(asked, 10)).answer) == wanted[1]

    run(tiny_bundle.root, check)


def test_a_process_that_ends_while_the_service_drains_is_not_started_again(tiny_bundle):
    """As under systemd's ``KillMode=control-group``, which ends the model process as it tells the service to stop."""

    async def check(supervisor, service):
        process, began = supervisor.current, time.monotonic()
        os.kill(process.pid, signal.SIGSTOP)
        asked = [asyncio.ensure_future(service.classify(request(VIDEOS[n % 4]))) for n in range(8)]
        await asyncio.sleep(0.05)
        assert service.waiting
        os.kill(process.pid, signal.SIGKILL)
        await process.gone
        drained = asyncio.ensure_future(service.drain(20))
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, UnavailableError) for one in found), found
        await drained
        assert time.monotonic() - began < 10
        await asyncio.sleep(1.0)
        assert supervisor.current is None and supervisor.restarts == 0

    run(tiny_bundle.root, check)


def test_a_stopped_process_is_seen_and_ended(tiny_bundle):
    async def check(supervisor, service):
        first = supervisor.current
        os.kill(first.pid, signal.SIGSTOP)
        assert not await supervisor.ready(0.2)
        await until(lambda: supervisor.restarts == 1)
        assert "did not answer" in first.gone.result() and await supervisor.ready()

    run(tiny_bundle.root, check, silent_s=2.0)


def test_a_process_that_answers_pings_but_no_videos_is_ended(tiny_bundle, tmp_path):
    async def check(supervisor, service):
        first = supervisor.current
        await service.classify(Request(clip))
        (decoder,) = children(first.pid)
        os.kill(decoder, signal.SIGSTOP)  # the video waits for its frames
        with pytest.raises(UnavailableError):
            await service.classify(Request(clip))
        await until(lambda: supervisor.restarts == 1)
        assert first.gone.result().startswith("died (SIGKILL")

    write_clips(tmp_path, 1, seed=5)
    clip = next(tmp_path.rglob("*.mp4")).read_bytes()
    run(tiny_bundle.root, check, stuck_s=0.5)


def children(pid):
    return [int(p) for task in Path(f"/proc/{pid}/task").glob("*/children") for p in task.read_text().split()]


def test_a_bundle_is_exchanged_under_load_and_a_bad_one_is_not(tiny_bundle, exports, wanted, tmp_path):
    from samples import TINY

    other = exports.bundle(TINY, seed=1)
    with dynvid.load(other.root, threads=1) as model:
        right = {other.sha256: [steady(to_json(model.classify(video))) for video in VIDEOS]}
    right[tiny_bundle.sha256] = wanted
    link = tmp_path / "bundle"
    link.symlink_to(tiny_bundle.root)

    def point(target):
        (tmp_path / "new").symlink_to(target)
        (tmp_path / "new").replace(link)

    async def check(supervisor, service):
        seen, stop = [], False

        async def ask():
            while not stop:
                for place, video in enumerate(VIDEOS):
                    reply = await service.classify(request(video))
                    assert steady(reply.answer) == right[reply.bundle_sha256][place]
                    seen.append(reply.bundle_sha256)

        asking = [asyncio.ensure_future(ask()) for _ in range(3)]
        point(tmp_path / "nothing")
        assert not await supervisor.swap()
        point(other.root)
        old = supervisor.current
        assert await supervisor.swap() and supervisor.current is not old
        await until(old.gone.done)
        stop = True
        await asyncio.gather(*asking)
        assert set(seen) == set(right) and seen[-1] == other.sha256 and supervisor.swaps == 1

    run(link, check)


def test_after_a_crash_the_bundle_that_was_served_serves_again(tiny_bundle, exports, tmp_path, caplog):
    from samples import TINY

    other, mine = exports.bundle(TINY, seed=1), tmp_path / "mine"
    shutil.copytree(tiny_bundle.root, mine)
    link = tmp_path / "bundle"
    link.symlink_to(mine)

    async def check(supervisor, service):
        link.unlink()
        link.symlink_to(other.root)  # and no SIGHUP
        os.kill(supervisor.current.pid, signal.SIGTERM)  # which it ignores
        assert (await service.classify(request(VIDEOS[0]))).bundle_sha256 == tiny_bundle.sha256
        supervisor.current.kill()
        await until(lambda: supervisor.restarts == 1)
        assert service.facts.bundle_sha256 == tiny_bundle.sha256
        shutil.rmtree(mine)
        shutil.copytree(other.root, mine)
        supervisor.current.kill()
        await until(lambda: "send SIGHUP to serve the new one" in caplog.text)
        assert supervisor.current is None
        assert await supervisor.swap() and service.facts.bundle_sha256 == other.sha256

    run(link, check)


def test_a_new_process_is_watched_while_the_old_one_drains(tiny_bundle):
    async def check(supervisor, service):
        old = supervisor.current
        os.kill(old.pid, signal.SIGSTOP)
        asked = asyncio.ensure_future(service.classify(request(VIDEOS[0])))
        await asyncio.sleep(0.05)
        assert await supervisor.swap() and old.in_flight
        supervisor.current.kill()
        await until(lambda: supervisor.restarts == 1, 8)
        assert not old.gone.done()
        os.kill(old.pid, signal.SIGCONT)
        await asked

    run(tiny_bundle.root, check, silent_s=30)


def test_a_bundle_that_cannot_be_opened_is_an_error_of_the_start(tmp_path):
    shutil.rmtree(tmp_path)
    with pytest.raises(ManifestError, match="is not a bundle"):
        run(tmp_path, None)


def test_the_process_goes_with_its_parent_even_while_it_is_stopped(tiny_bundle, tmp_path):
    script = f"""
import asyncio
from dynvid.serving.service.supervisor import Supervisor

async def main():
    supervisor = Supervisor({options(tiny_bundle.root)!r})
    await supervisor.start()
    print(supervisor.current.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    os.kill(worker, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    began = time.monotonic()
    while runs(worker):
        assert time.monotonic() - began < 10
        time.sleep(0.02)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
