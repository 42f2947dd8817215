"""A server of its own for each check, clients for it, and the answers of ``dynvid.load`` to compare with."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http

import dynvid

FIELDS = ("label", "class_index", "confidence", "checkpoint", "gmacs", "status", "warnings")


@dataclass
class Running:
    """A ``dynvid serve`` process, or a Triton."""

    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int
    log: Path
    model: str = "dynvid"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def infer_url(self) -> str:
        return f"{self.url}/v2/models/{self.model}/infer"

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body; status 0: no connection."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def ready(self) -> bool:
        return self.get("/v2/health/ready")[0] == 200

    def wait(self, ready: bool, seconds: float) -> float:
        """Wait until readiness is so; return how long it took."""
        began = time.monotonic()
        while self.ready() is not ready:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - began < seconds, f"not {ready} after {seconds} s: {self.log.read_text()[-2000:]}"
            time.sleep(0.02)
        return time.monotonic() - began

    def descendants(self) -> list[int]:
        """Return the process ids of children, their children and so on."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += (children := [int(one) for one in task.read_text().split()])
                found += children
        return found

    def worker(self) -> int:
        """Return the process id of the (oldest) model process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}")
        found = [int(p) for task in children.parent.glob("*/children") for p in task.read_text().split()]
        return min(found)

    def rss_mb(self) -> float:
        """Return the memory of the server and all its children."""
        pages = 0
        for pid in (self.process.pid, *self.descendants()):
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def metric(self, name: str) -> dict[str, float]:
        """Return the samples of a metric by their labels."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return {a: float(b) for a, _, b in (line.rpartition(" ") for line in lines) if a.split("{")[0] == name}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[Running]:
    """Run ``dynvid serve`` on free ports; on leaving, it must stop cleanly and leave no process."""
    port, grpc_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "dynvid.cli", "-v", "serve", str(bundle), "--port", str(port)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--grpc-port", str(grpc_port), *options], stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )
        running = Running(process, port, grpc_port, log)
        try:
            running.wait(True, 120)
            yield running
            left = running.descendants()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
            require_gone(left, 5)
            said = log.read_text()
            assert "Traceback" not in said and "Exception:" not in said, said
        finally:
            process.kill()
            process.wait()


@contextmanager
def triton(repository: Path) -> Iterator[Running]:
    """Run the tritonserver that nvidia-pytriton brings, on free ports, with this environment's Python."""
    import pytriton

    home = Path(pytriton.__file__).parent
    port, grpc_port, metrics_port = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(home / "tritonserver" / "backends", Path(folder) / "backends")
        stubs = home / "tritonserver" / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
        shutil.copy(stubs / "triton_python_backend_stub", Path(folder) / "backends" / "python")
        # the stub would load the system's libpython against this Python's library
        libraries = [sysconfig.get_config_var("LIBDIR"), str(home.parent / "nvidia_pytriton.libs")]
        environment = os.environ | {
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PYTHONPATH": os.pathsep.join(
                [os.environ.get("PYTHONPATH", ""), *(path for path in sys.path if path.endswith("-packages"))]
            ).strip(os.pathsep),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        log = Path(folder) / "log"
        options = {
            "model-repository": repository, "backend-directory": Path(folder) / "backends", "http-port": port,
            "grpc-port": grpc_port, "metrics-port": metrics_port,
        }  # fmt: skip
        with log.open("wb") as file:
            process = subprocess.Popen(
                [home / "tritonserver/bin/tritonserver", *(f"--{name}={value}" for name, value in options.items())],
                stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
        running = Running(process, port, grpc_port, log)
        try:
            running.wait(True, 120)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def require_gone(pids: list[int], seconds: float) -> None:
    """Wait until none of these processes runs."""
    began = time.monotonic()
    while alive := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() - began < seconds, f"orphans: {alive}"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def body_of(clip: Path | bytes, timeout_s: float | None = None) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request for an encoded clip, as a binary tensor."""
    payload = clip if isinstance(clip, bytes) else clip.read_bytes()
    size = len(payload) + 4
    parameters = {} if timeout_s is None else {"timeout": int(timeout_s * 1e6)}
    tensor = {"name": "clip", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return head + (size - 4).to_bytes(4, "little") + payload, {
        "Inference-Header-Content-Length": str(len(head)),
        "Content-Type": "application/octet-stream",
    }


def of_json(reply: dict) -> dict:
    """Return the fields of a reply in JSON that do not change from run to run."""
    found = {one["name"]: one["data"] for one in reply["outputs"]}
    return {name: found[name] if name == "warnings" else found[name][0] for name in FIELDS}


def of_tensors(reply, names=FIELDS) -> dict:
    """The same, of a reply of tritonclient."""

    def value(one):
        return one.decode() if isinstance(one, bytes) else one.item() if isinstance(one, np.generic) else one

    found = {name: [value(one) for one in reply.as_numpy(name).ravel()] for name in names}
    return {name: values if name == "warnings" else values[0] for name, values in found.items()}


def expected(bundle: Path, videos: list, thresholds: Path | None, **options) -> list[dict]:
    """Return the fields of the answers of ``dynvid.load`` in this process."""
    answers = []
    with dynvid.load(bundle, thresholds=thresholds, threads=1, **options) as model:
        for video in videos:
            a = model.classify(video)
            answers.append(
                {
                    "label": a.label, "class_index": a.class_index, "confidence": a.confidence,
                    "checkpoint": a.checkpoint, "gmacs": a.gmacs, "status": a.status, "warnings": list(a.warnings),
                }
            )  # fmt: skip
    return answers


def frames_of(clip: Path) -> np.ndarray:
    import av

    with av.open(str(clip)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def ask_http(client, model: str, video, **options):
    return client.infer(model, [_input(tritonclient.http.InferInput, video)], **options)


def ask_grpc(client, model: str, video, **options):
    return client.infer(model, [_input(tritonclient.grpc.InferInput, video)], **options)


def _input(kind, video):
    if isinstance(video, np.ndarray):
        tensor = kind("frames", [1, *video.shape], "UINT8")
        tensor.set_data_from_numpy(video[None])
    else:
        tensor = kind("clip", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[video if isinstance(video, bytes) else video.read_bytes()]], np.object_))
    return tensor


def percentile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def machine() -> str:
    return f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d %H:%M')}"


async def post(session, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, float, dict, str | None]:
    """Return status, seconds, reply and Retry-After of a request by aiohttp."""
    began = asyncio.get_running_loop().time()
    async with session.post(url, data=body, headers=headers) as reply:
        found = await reply.json(content_type=None)
        return reply.status, asyncio.get_running_loop().time() - began, found, reply.headers.get("Retry-After")
