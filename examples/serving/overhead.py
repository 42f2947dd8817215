"""Measure what a service adds to ``model.submit``: overhead.py BUNDLE CLIPS [ROUNDS].

The 16 frames of a clip that the network looks at, one request at a time: ``model.submit`` in this process; the server
by HTTP from a socket that sends a request made before, which is what the server adds; and tritonclient, whose own time
comes on top. All by turns, so that they see the same machine. On a machine that others use, ``chrt -r 1`` before the
command keeps them out. Then 16 clients at once, and how many videos the calls of the model held.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
from running import ask_grpc, ask_http, frames_of, machine, percentile, serving

import dynvid

CLIENTS = 16


def main(bundle: Path, clips: Path, rounds: int = 300) -> None:
    videos = [sampled(frames_of(path)) for path in sorted(clips.rglob("*.mp4"))[:20]]
    prepared = [request_of(video) for video in videos]
    options = ("--engines", "none", "--threads", "1")
    began = time.monotonic()
    with serving(bundle, *options) as server, dynvid.load(bundle, engines="none", threads=1, mode="deadline") as model:
        print(f"ready after {time.monotonic() - began:.1f} s; {server.rss_mb():.0f} MB of memory in "
              f"{1 + len(server.descendants())} processes")  # fmt: skip
        http = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")
        grpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        connection = socket.create_connection(("127.0.0.1", server.port))
        ways = {
            "model.submit": lambda turn: model.submit(videos[turn]).result(),
            "HTTP, a socket": lambda turn: exchange(connection, prepared[turn]),
            "HTTP, tritonclient": lambda turn: ask_http(http, "dynvid", videos[turn]),
            "gRPC, tritonclient": lambda turn: ask_grpc(grpc, "dynvid", videos[turn]),
        }
        taken_ms: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 20):
            for name, ask in ways.items():
                began = time.perf_counter()
                ask(turn % len(videos))
                if turn >= 20:
                    taken_ms[name].append((time.perf_counter() - began) * 1e3)
        base = percentile(taken_ms["model.submit"], 0.5)
        for name, taken in taken_ms.items():
            added = "" if name == "model.submit" else f", {percentile(taken, 0.5) - base:+.2f} ms"
            print(f"{name}: median {percentile(taken, 0.5):.2f} ms{added}, p90 {percentile(taken, 0.9):.2f} ms")
        print(f"{rounds} rounds, frames {list(videos[0].shape)}, {machine()}")
        connection.close()
        http.close()
        grpc.close()
    for mode in ("deadline", "throughput"):
        with serving(bundle, "--engines", "none", "--threads", "1", "--batch", "8", "--mode", mode) as server:
            ask_all(server, videos)
            time.sleep(1.5)  # calls are counted by pings
            calls = server.metric("dynvid_calls")
            filled = sum(count * int(name.split('videos="')[1].split('"')[0]) for name, count in calls.items())
            first = {n.split('videos="')[1].split('"')[0]: int(c) for n, c in calls.items() if 'segment="1"' in n}
            print(f"{CLIENTS} clients, --mode {mode} --batch 8: {filled / sum(calls.values()):.2f} videos a call; "
                  f"calls of segment 1 by videos: {first}")  # fmt: skip


def request_of(frames: np.ndarray) -> bytes:
    """Return a request over HTTP."""
    size = {"binary_data_size": frames.nbytes}
    tensor = {"name": "frames", "shape": [1, *frames.shape], "datatype": "UINT8", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lines = (
        "POST /v2/models/dynvid/infer HTTP/1.1", "Host: x", f"Content-Length: {len(head) + frames.nbytes}",
        f"Inference-Header-Content-Length: {len(head)}", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + head + frames.tobytes()


def exchange(connection: socket.socket, request: bytes) -> None:
    """Send a request and wait for the whole reply."""
    connection.sendall(request)
    reply = b""
    while True:
        reply += connection.recv(1 << 16)
        head, _, body = reply.partition(b"\r\n\r\n")
        if body and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]):
            assert head.startswith(b"HTTP/1.1 200"), head
            return


def sampled(frames: np.ndarray) -> np.ndarray:
    """Return the 16 frames that the network looks at, as a client who knows them would send."""
    return frames[[(2 * i + 1) * len(frames) // 32 for i in range(16)]]


def ask_all(server, videos) -> None:
    """Ask with ``CLIENTS`` threads, each for 20 videos."""

    def ask(first: int) -> None:
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        for turn in range(20):
            ask_grpc(client, "dynvid", videos[(first + turn) % len(videos)])
        client.close()

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(CLIENTS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
