"""Break things under load: faults.py BUNDLE OTHER CLIPS [ROUNDS [SWAPS]].

Four clients ask all the time, while the model process is killed and stopped, clients stall and vanish, the bundle is
exchanged for OTHER and back, and the server is killed and asked to stop. No answer may be wrong, nobody may wait for
ever, nothing may be left behind. OTHER is another bundle, such as one of another route.
"""

from __future__ import annotations

import asyncio
import collections
import os
import random
import signal
import socket
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from running import Running, body_of, expected, machine, of_json, percentile, post, require_gone, serving

from dynvid.grid.bundle import Bundle

OPTIONS = ("--engines", "none", "--threads", "1")
SILENT_S = 3.0


class Load:
    """Clients that ask all the time.

    Attributes:
        counts: number of replies by status; 0: the connection failed.
        by_bundle: number of answers by bundle.
        seconds: of the answers.
    """

    def __init__(self, server: Running, bodies: list, wanted: dict[str, list[dict]]) -> None:
        self._server, self._bodies, self._wanted = server, bodies, wanted
        self.counts: collections.Counter[int] = collections.Counter()
        self.by_bundle: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._ask(session) for _ in range(4)))

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        while True:
            clip = random.randrange(len(self._bodies))
            try:
                status, taken, reply, retry = await post(session, self._server.infer_url, *self._bodies[clip])
            except aiohttp.ClientError:
                self.counts[0] += 1
                await asyncio.sleep(0.05)
                continue
            self.counts[status] += 1
            if status == 200:
                bundle = reply["parameters"]["bundle_sha256"]
                assert of_json(reply) == self._wanted[bundle][clip], f"a wrong or mixed answer: {reply}"
                self.by_bundle[bundle] += 1
                self.seconds.append(taken)
            else:
                assert status in (429, 503) and retry, (status, reply)
                assert "/" not in reply["error"] and "Traceback" not in reply["error"], reply
                await asyncio.sleep(0.05)


@asynccontextmanager
async def loaded(server: Running, bodies: list, wanted: dict[str, list[dict]]):
    load = Load(server, bodies, wanted)
    running = asyncio.create_task(load.run())
    yield load
    if running.done():
        running.result()
    running.cancel()
    await asyncio.wait([running])


async def off(function, *arguments):
    """Run what blocks in a thread."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def workers(server: Running, bodies: list, wanted: dict, rounds: int) -> None:
    """Kill and stop the model process."""
    for name, number in (("SIGKILL", signal.SIGKILL), ("SIGSTOP", signal.SIGSTOP)):
        fell, back = [], []
        async with loaded(server, bodies, wanted) as load:
            for _ in range(rounds):
                await asyncio.sleep(2)
                os.kill(server.worker(), number)
                fell.append(await off(server.wait, False, 5))
                back.append(await off(server.wait, True, 60))
        print(f"{rounds} x {name}: readiness fell within {max(fell):.2f} s and came back within {max(back):.2f} s "
              f"(silent after {SILENT_S:g} s); replies by status {dict(load.counts)}, 0 wrong")  # fmt: skip
        assert load.counts[200] and set(load.counts) <= {200, 429, 503}


async def clients(server: Running, bodies: list, wanted: dict, count: int) -> None:
    """Stall and vanish, in the header, in the body, and while the answer is computed."""
    body, headers = bodies[0]
    lines = "".join(f"{a}: {b}\r\n" for a, b in headers.items())
    head = f"POST /v2/models/dynvid/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode()
    before, files = server.rss_mb(), len(os.listdir(f"/proc/{server.process.pid}/fd"))
    async with loaded(server, bodies, wanted) as quiet:
        await asyncio.sleep(4)
    async with loaded(server, bodies, wanted) as load:
        stalled = []
        for turn in range(count):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.sendall(head[:40] if turn % 2 else head + body[: len(body) // 2])
            stalled.append(sock)
        await asyncio.sleep(2)
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.sendall(head + body)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close by reset
            sock.close()
            await asyncio.sleep(0.01)
        await asyncio.sleep(2)
    for sock in stalled:
        sock.close()
    await asyncio.sleep(3)
    cancelled = server.metric("dynvid_requests_total").get('dynvid_requests_total{outcome="cancelled"}', 0)
    left = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    print(f"{count} stalled and {count} vanished clients: {cancelled:.0f} requests cancelled; open files {files} before, "
          f"{left} after; memory {before:.0f} MB before, {server.rss_mb():.0f} MB after; others' p99 "
          f"{percentile(quiet.seconds, 0.99) * 1e3:.0f} ms before, {percentile(load.seconds, 0.99) * 1e3:.0f} ms meanwhile")  # fmt: skip
    assert server.ready() and left <= files + 8 and server.metric("dynvid_in_flight")["dynvid_in_flight"] <= 4


async def swaps(server: Running, bodies: list, wanted: dict, link: Path, bundles: list[Path], count: int) -> None:
    """Exchange the bundle."""
    took = []
    async with loaded(server, bodies, wanted) as load:
        for turn in range(1, count + 1):
            began = time.monotonic()
            point(link, bundles[turn % 2])
            server.process.send_signal(signal.SIGHUP)
            while server.metric("dynvid_swaps_total").get("dynvid_swaps_total") != turn:
                await asyncio.sleep(0.1)
                assert time.monotonic() - began < 60, server.log.read_text()
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.3)
        point(link, Path("/nowhere"))
        server.process.send_signal(signal.SIGHUP)  # the old one goes on
        await asyncio.sleep(3)
        point(link, bundles[count % 2])
    print(f"{count} exchanges of the bundle: {dict(load.counts)} by status, answers of each bundle "
          f"{sorted(load.by_bundle.values())}, 0 mixed, 0 lost; one takes {percentile(took, 0.5):.1f} s; and one for a "
          f"bundle that is not there: the old one serves")  # fmt: skip
    assert set(load.counts) == {200} and len(load.by_bundle) == 2


def point(link: Path, target: Path) -> None:
    new = link.with_suffix(".new")
    new.symlink_to(target)
    new.replace(link)


async def endings(bundle: Path, bodies: list, wanted: dict) -> None:
    """Ask the server to stop while it has requests, and kill it."""
    with serving(bundle, *OPTIONS) as server:
        async with aiohttp.ClientSession() as session:
            asked = [asyncio.create_task(post(session, server.infer_url, *bodies[n % len(bodies)])) for n in range(8)]
            await asyncio.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            found = await asyncio.gather(*asked)
            assert all(one[0] == 200 for one in found), found
            assert await off(server.process.wait, 30) == 0
    print("SIGTERM with 8 requests under way: 8 answered, exit code 0")
    with serving_killed(bundle) as server:
        left = server.descendants()
        os.kill(server.worker(), signal.SIGSTOP)
        server.process.kill()
        require_gone(left, 10)
    print("SIGKILL of the server, its model process stopped: 0 processes left")


def serving_killed(bundle: Path):
    """Like ``serving``, for a server that the check itself kills."""
    from contextlib import contextmanager

    @contextmanager
    def run():
        context = serving(bundle, *OPTIONS)
        server = context.__enter__()
        yield server
        server.process.wait(10)
        context.gen.close()

    return run()


async def check(bundle: Path, other: Path, clips: Path, rounds: int, count: int) -> None:
    paths = sorted(clips.rglob("*.mp4"))[:16]
    bodies = [body_of(path) for path in paths]
    wanted = {Bundle.open(one).sha256: expected(one, paths, None, engines="none") for one in (bundle, other)}
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model.bundle"
        point(link, bundle.resolve())
        with serving(link, *OPTIONS, "--silent-after", str(SILENT_S)) as server:
            await workers(server, bodies, wanted, rounds)
            assert "Traceback" not in server.log.read_text()
        with serving(link, *OPTIONS) as server:  # a busy machine may be silent for some seconds
            await clients(server, bodies, wanted, 20 * rounds)
            await swaps(server, bodies, wanted, link, [bundle.resolve(), other.resolve()], count)
            assert "Traceback" not in server.log.read_text()
    await endings(bundle, bodies, wanted)
    print(machine())


if __name__ == "__main__":
    asyncio.run(check(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:] or (5, 20))))
