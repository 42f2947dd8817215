"""Send malformed requests: fuzz.py BUNDLE [SECONDS].

First by hand what breaks parsers, then schemathesis, from the server's own OpenAPI description, while another client
watches health. Nothing may be answered by 5xx but 503 with Retry-After; no answer and no line of the log may hold a
traceback or a path.
"""

from __future__ import annotations

import json
import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import tritonclient.grpc
from running import Running, machine, serving
from tritonclient.utils import InferenceServerException

INFER = "/v2/models/dynvid/infer"
_BODY_S = 30.0  # how long a body may take
_GROWTH_MB = 20.0
FRAMES = {"name": "frames", "shape": [1, 2, 4, 4, 3], "datatype": "UINT8"}


def bodies() -> list[tuple[dict[str, str], bytes]]:
    """Return headers and bodies of requests that are all wrong."""
    json_only, found = {}, []
    for tensor in (
        {}, {"name": "clip"}, {**FRAMES, "shape": [1, -2, 4, 4, 3]}, {**FRAMES, "shape": [1 << 62] * 5},
        {**FRAMES, "shape": [0, 2, 4, 4, 3]}, {**FRAMES, "shape": [1, 0, 4, 4, 3]}, {**FRAMES, "shape": "all"},
        {**FRAMES, "shape": [1, 2.5, 4, 4, 3]}, {**FRAMES, "shape": [True] * 5}, {**FRAMES, "datatype": "FP16"},
        {**FRAMES, "datatype": 7}, {**FRAMES, "name": ["frames"]}, {**FRAMES, "data": [1, 2]},
        {**FRAMES, "data": [300] * 96}, {**FRAMES, "data": ["x"] * 96}, {**FRAMES, "data": {"a": 1}},
        {**FRAMES, "parameters": 3, "data": [0] * 96}, {**FRAMES, "parameters": {"binary_data_size": -1}},
        {**FRAMES, "parameters": {"binary_data_size": 1 << 70}}, {**FRAMES, "shape": [1, 1, 1, 9000, 3], "data": []},
        {"name": "clip", "shape": [1, 1], "datatype": "BYTES", "data": ["no video"]},
        {"name": "clip", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]},
    ):  # fmt: skip
        found.append((json_only, json.dumps({"inputs": [tensor]}).encode()))
    good = {**FRAMES, "data": [0] * 96}
    for request in (
        [], 3, None, "x", {}, {"inputs": []}, {"inputs": [good, good]}, {"inputs": good}, {"inputs": [[good]]},
        {"inputs": [good], "parameters": {"timeout": -1}}, {"inputs": [good], "parameters": {"timeout": "soon"}},
        {"inputs": [good], "parameters": {"unknown": 1}}, {"inputs": [good], "parameters": []},
        {"inputs": [good], "outputs": [{"name": "nothing"}]}, {"inputs": [good], "outputs": [{"name": "label"}] * 999},
        {"inputs": [good], "outputs": {"name": "label"}}, {"inputs": [good], "id": 5}, {"inputs": [good], "id": "i" * 9999},
    ):  # fmt: skip
        found.append((json_only, json.dumps(request).encode()))
    deep = b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for body in (b"", b"{", b"\xff\xfe", deep, b'{"inputs": NaN}', b"0" * 900_000):
        found.append((json_only, body))
    rng = random.Random(0)
    for length in ("0", "-1", "x", "1e9", "99999999999999999999", "5", ""):
        found.append(({"Inference-Header-Content-Length": length}, rng.randbytes(200)))
    for size in (1, 3, 4, 5, 1000):
        tensor = {"name": "clip", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [tensor]}).encode()
        found.append(({"Inference-Header-Content-Length": str(len(head))}, head + rng.randbytes(size)))
    return found


def raw_requests() -> list[bytes]:
    """Return what is hardly HTTP."""
    return [
        b"\0" * 1000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n".encode(),
        b"GET /v2/health/live HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ]


def send(server: Running, data: bytes) -> bytes:
    """Return what comes back within a second, or at once if the connection is closed."""
    found = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=2) as connection:
        try:
            connection.sendall(data)
            while chunk := connection.recv(1 << 16):
                found += chunk
                if b"\r\n\r\n" in found:
                    break
        except OSError:
            pass
    return found


def judge(reply: bytes, request: object) -> int:
    status = int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/") else 0
    text = reply.lower()
    assert status < 500 or (status == 503 and b"retry-after" in text), (request, reply[:500])
    assert b"traceback" not in text and b"site-packages" not in text and b"/proc/" not in text, (request, reply[:500])
    return status


def endless() -> dict[str, tuple[bytes, bytes]]:
    """Return requests that never end, by what they have too much of: how each begins, and what it repeats."""
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n".encode()
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    return {
        "one header": (head + b"X: ", b"y" * 4096),
        "headers": (head, b"X: y\r\n" * 500),
        "one chunk extension": (chunked + b"1;", b"y" * 4096),
        "chunk extensions": (chunked, b"1;" + b"y" * 16_000 + b"\r\nz\r\n"),
        "one trailer": (chunked + b"1\r\nz\r\n0\r\nX: ", b"y" * 4096),
        "trailers": (chunked + b"1\r\nz\r\n0\r\n", b"X: y\r\n" * 500),
    }


def send_endless(server: Running, begin: bytes, piece: bytes, seconds: float) -> tuple[bytes, int, float]:
    """Send until the connection is closed or there is a reply; return it, the bytes sent and the server's most memory."""
    ends, sent, memory, found = time.monotonic() + seconds, len(begin), server.rss_mb(), b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.5) as connection:
        try:
            connection.sendall(begin)
            while not found:
                assert time.monotonic() < ends, f"after {sent} bytes and {seconds} s neither a reply nor closed"
                if select.select([connection], [], [], 0)[0]:
                    found = connection.recv(1 << 16)
                    break
                with suppress(TimeoutError):  # the server reads no more for now
                    sent += connection.send(piece)
                memory = max(memory, server.rss_mb())
        except ConnectionError:
            pass
    return found, sent, memory


def main(bundle: Path, seconds: float = 60.0) -> None:
    options = ("--engines", "none", "--threads", "1")
    with tempfile.TemporaryDirectory() as folder, serving(bundle, *options) as server:  # schemathesis leaves files
        memory, failed, stop = server.rss_mb(), [], threading.Event()

        def watch() -> None:
            while not stop.wait(0.2):
                for path in ("/v2/health/live", "/v2/health/ready"):
                    if (status := server.get(path)[0]) != 200:
                        failed.append((path, status))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        counts: dict[int, int] = {}
        for headers, body in bodies():
            lines = "".join(f"{a}: {b}\r\n" for a, b in headers.items())
            head = (
                f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            status = judge(send(server, head.encode() + body), (headers, body[:100]))
            assert 400 <= status < 500, (status, headers, body[:200])
            counts[status] = counts.get(status, 0) + 1
        for data in raw_requests():
            judge(send(server, data), data[:100])
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"):
            for path in ("/", "/v2", "/v2/models", INFER, "/v1/models/dynvid:predict", "/v2/models/../x/infer", "/metrics",
                         "/v2/repository/models/dynvid/unload", "/v2/models/dynvid/versions/1/infer", "/docs"):  # fmt: skip
                judge(send(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()), path)
        for name, (begin, piece) in endless().items():
            before, began = server.rss_mb(), time.monotonic()
            reply, sent, most = send_endless(server, begin, piece, _BODY_S + 10)
            status = judge(reply, name)
            assert status == 0 or 400 <= status < 500, (name, reply)
            assert most < before + _GROWTH_MB, (name, before, most)
            print(f"endless, {name}: {status or 'closed'} after {sent / 1e6:.2f} MB and {time.monotonic() - began:.1f} s, "
                  f"memory {most - before:+.1f} MB")  # fmt: skip
        print(f"{sum(counts.values())} wrong bodies: {counts} by status")
        by_grpc(server)
        began = time.monotonic()
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json", "--url", server.url,
                "--checks", "not_a_server_error", "--max-time", str(round(seconds)), "--max-examples", "100000",
                "--phases", "fuzzing", "--continue-on-failure", "--no-color",
            ],
            capture_output=True, text=True, cwd=folder,
        )  # fmt: skip
        said = [
            line for line in done.stdout.splitlines() if "generated" in line or "passed" in line or "Test cases" in line
        ]
        print(f"schemathesis, {time.monotonic() - began:.0f} s, exit code {done.returncode}:", *said, sep="\n  ")
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        stop.set()
        watcher.join()
        assert not failed, failed
        log = server.log.read_text()
        assert "Traceback" not in log and "site-packages" not in log and "/proc/" not in log, log
        print(f"health was up all the time; memory {memory:.0f} MB before, {server.rss_mb():.0f} MB after; {machine()}")


def by_grpc(server: Running) -> None:
    """Ask wrongly by gRPC."""
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    codes: dict[str, int] = {}
    for name, shape, datatype, data in (
        ("clip", [1, 1], "BYTES", b"\xff\xff\xff\xff"), ("clip", [1, 1], "BYTES", b""), ("clip", [1, 1], "BYTES", b"\1\0\0\0a"),
        ("clip", [2, 2], "BYTES", b"\1\0\0\0a" * 4), ("frames", [1, 9, 9, 9, 3], "UINT8", b"abc"),
        ("frames", [1, -9, 9, 9, 3], "UINT8", b"abc"), ("nothing", [1], "UINT8", b"a"), ("frames", [1], "NONE", b"a"),
    ):  # fmt: skip
        tensor = tritonclient.grpc.InferInput(name, shape, datatype)
        tensor._raw_content = data
        try:
            client.infer("dynvid", [tensor])
        except InferenceServerException as error:
            assert "Traceback" not in str(error) and "/proc/" not in str(error), error
            codes[error.status()] = codes.get(error.status(), 0) + 1
        else:
            raise AssertionError(f"{name} {shape} was answered")
    assert set(codes) == {"StatusCode.INVALID_ARGUMENT"}, codes
    for call in (lambda: client.load_model("dynvid"), lambda: client.unload_model("dynvid")):
        try:
            call()
        except InferenceServerException as error:
            assert error.status() == "StatusCode.UNIMPLEMENTED", error
    print(f"wrong tensors by gRPC: {codes}")
    client.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
