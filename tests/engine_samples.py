"""A key, what fits it, and plans made for it, for the tests of engines; and what engines are made from."""

from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.grid.engines.cache import EngineKey, EngineRequest, Profile
from dynvid.grid.storage.sealed import seal

RTX_VERSION = "1.7.1.116"
KEY = EngineKey(
    subgraph="block0",
    precision="fp16",
    onnx_sha256="a1" * 32,
    bundle_sha256="b2" * 32,
    fusion=0,
    profiles=(Profile((1, 1, 1), (2, 4, 16)), Profile((1, 5, 32), (2, 4, 16))),
    flavour="tensorrt-rtx",
    version=RTX_VERSION,
    targets=("sm86", "sm89"),
    platform="linux-x86_64",
    cuda="13",
)
WANTED = EngineRequest(
    subgraph="block0",
    precision="fp16",
    onnx_sha256="a1" * 32,
    bundle_sha256="b2" * 32,
    fusion=0,
    flavour="tensorrt-rtx",
    version=RTX_VERSION,
    device="sm89",
    cuda="13",
    platform="linux-x86_64",
    batch=8,
    frames=(2, 4, 16),
)


def graph_of(job, bundle, precision):
    """Return the ONNX model that an engine is made from, as it is in the bundle or as its segment is fused."""
    return EngineGraphs(bundle, precision).take(job.source).content


def plan_of(payload=b"", tag=b"vtrt", version=(1, 7, 1, 116), length=2048, says=None):
    """Return plan bytes with this header."""
    start = tag + bytes(12) + (length if says is None else says).to_bytes(8, "little") + bytes(version) + payload
    return start.ljust(length, b"\x5a")


def put(cache, key=KEY, payload=b""):
    """Return the engine of ``key``, written with a plan that fits it."""
    tag = {"tensorrt": b"ftrt", "tensorrt-rtx": b"vtrt"}.get(key.flavour, b"onnx")
    return cache.write(key, plan_of(payload, tag, map(int, key.version.split("."))), 0.5, {"layers": {"HALF": 3}})


def resealed(content, version=(1, 0)):
    """Return the content of a sidecar, changed, under a seal that fits it."""
    content = {name: value for name, value in content.items() if name not in ("sha256", "format", "version")}
    return seal(content, "dynvid.engine", version)
