"""Overload a server tenfold: overload.py BUNDLE CLIPS T.json [SECONDS [TIMES]].

First 16 clients find what the server can do. Then two niced processes send TIMES as many requests, at random moments
and without waiting for answers, each with a timeout of a second. A probe in this process, which is not niced, sends 20
a second and measures. What is accepted must be right and in time, what is refused must be refused at once.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
from running import Running, body_of, expected, machine, of_json, percentile, post, serving

TIMEOUT_S = 1.0
REFUSED = (429, 503)


async def capacity(server: Running, bodies: list, seconds: float = 6.0) -> float:
    """Return answers per second with 16 clients that wait for theirs."""
    done, until = 0, time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:

        async def ask() -> None:
            nonlocal done
            while time.monotonic() < until:
                status, *_ = await post(session, server.infer_url, *random.choice(bodies))
                done += status == 200

        await asyncio.gather(*(ask() for _ in range(16)))
    return done / seconds


async def send(url: str, bodies: list, rate: float, seconds: float) -> list[tuple[int, float, int, dict, str | None]]:
    """Send at random moments, ``rate`` a second; return status, seconds, clip, reply and Retry-After of each."""
    found, tasks = [], set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2000)) as session:

        async def ask(clip: int) -> None:
            try:
                status, taken, reply, retry = await post(session, url, *bodies[clip])
            except aiohttp.ClientError as error:
                status, taken, reply, retry = 0, 0.0, {"error": repr(error)}, None
            found.append((status, taken, clip, reply, retry))

        until = due = time.monotonic()
        until += seconds
        while due < until:
            due += random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.add(task := asyncio.create_task(ask(random.randrange(len(bodies)))))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    return found


def judged(found: list, wanted: list[dict]) -> dict[str, int]:
    """Return the number of requests by status; fail on a wrong answer, and on a refusal that is not one."""
    for status, _, clip, reply, retry in found:
        if status == 200:
            cut = next(one["data"][0] for one in reply["outputs"] if one["name"] == "status") == "cut"
            assert cut or of_json(reply) == wanted[clip], (reply, wanted[clip])
        else:
            assert status in REFUSED and retry is not None and int(retry) >= 1, (status, reply, retry)
    return dict(collections.Counter(str(one[0]) for one in found))


def main(bundle: Path, clips: Path, thresholds: Path, seconds: float = 60.0, times: float = 10.0) -> None:
    paths = sorted(clips.rglob("*.mp4"))[:32]
    wanted = expected(bundle, paths, thresholds, engines="none")
    bodies = [body_of(path, TIMEOUT_S) for path in paths]
    options = ("--engines", "none", "--threads", "1", "--max-waiting", "16")
    with serving(bundle, *options, "--thresholds", str(thresholds)) as server:
        able = asyncio.run(capacity(server, bodies))
        rate = times * able
        print(f"16 clients: {able:.0f} answers a second; now {rate:.0f} requests a second for {seconds:g} s")
        command = [sys.executable, __file__, "--send", server.infer_url, str(clips), str(rate / 2), str(seconds)]
        loads = [
            subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(15), cwd=Path(__file__).parent)
            for _ in range(2)
        ]
        sizes: list[float] = []

        async def probe() -> list:
            async def weigh() -> None:
                while True:
                    sizes.append(server.rss_mb())
                    await asyncio.sleep(2)

            weighing = asyncio.create_task(weigh())
            try:
                return await send(server.infer_url, bodies, 20, seconds)
            finally:
                weighing.cancel()

        probed = asyncio.run(probe())
        loaded = [json.loads(line) for one in loads for line in one.communicate()[0].splitlines()]
        assert server.ready()
        for name, found in (("the load", loaded), ("the probe", probed)):
            counts = judged(found, wanted)
            refused = [one[1] * 1e3 for one in found if one[0] in REFUSED]
            late = sum("in the time" in one[3]["error"] for one in found if one[0] == 503)
            answered = [one[1] * 1e3 for one in found if one[0] == 200]
            print(f"{name}: {counts} by status, {late} of them too late; refused: median {percentile(refused, 0.5):.1f} ms, "
                  f"p99 {percentile(refused, 0.99):.1f} ms; answered: median {percentile(answered, 0.5):.0f} ms, "
                  f"p99 {percentile(answered, 0.99):.0f} ms, allowed {TIMEOUT_S * 1e3:.0f} ms")  # fmt: skip
        total = sum(one[0] == 200 for one in (*loaded, *probed))
        half = len(sizes) // 2
        print(f"answered {total / seconds:.0f} a second; memory {max(sizes[1:half]):.0f} MB in the first half, "
              f"{max(sizes[half:]):.0f} MB in the second; {machine()}")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "--send":
        url, clips, rate, seconds = sys.argv[2:]
        bodies = [body_of(path, TIMEOUT_S) for path in sorted(Path(clips).rglob("*.mp4"))[:32]]
        for one in asyncio.run(send(url, bodies, float(rate), float(seconds))):
            print(json.dumps(one))
    else:
        main(*map(Path, sys.argv[1:4]), *map(float, sys.argv[4:]))
