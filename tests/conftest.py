"""Fixtures shared by all tests: routes, small networks, and exports kept by the hash of the sources that made them."""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from samples import DEMONSTRATION, ROOT, TINY
from shared_graphs import SharedGraphs

from dynvid.grid.bundle import Bundle


def pytest_configure() -> None:
    torch.set_num_threads(1)
    # a shell starts what runs behind an ampersand so that it ignores Ctrl-C, and what tests start would, too
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available() or os.environ.get("DYNVID_REQUIRE_GPU") == "1":
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device; DYNVID_REQUIRE_GPU=1 makes this a failure"))


def _source_hash(*places: str) -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for place in places:
        for path in sorted((ROOT / place).rglob("*.py")) or [ROOT / place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Exports:
    """Bundles of untrained networks, exported once for each state of the sources."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def network(self, config: dict, seed: int = 0):
        from dynvid.models.config_json import from_json
        from dynvid.models.network import initialise
        from dynvid.models.registry import build

        return initialise(build(from_json(config)), seed)

    def training_checkpoint(self, config: dict, seed: int = 0) -> Path:
        from dynvid.models.training_checkpoint import save

        path = self.folder / f"{self._key(config, seed)}.pth"
        with self.turn(path.name):
            if not path.exists():
                save(self.network(config, seed), path)
        return path

    def bundle(self, config: dict, precisions: tuple[str, ...] = ("fp32",), seed: int = 0) -> Bundle:
        from dynvid.exporter.export import export
        from dynvid.grid.storage.files import sha256_of
        from dynvid.models.layouts import load_training_checkpoint

        checkpoint = self.training_checkpoint(config, seed)
        root = self.folder / f"{self._key(config, seed)}-{'-'.join(precisions)}"
        with self.turn(root.name):
            if not root.exists():
                network = load_training_checkpoint(checkpoint).network
                export(network, root, source_sha256=sha256_of(checkpoint), precisions=precisions)
        return Bundle.open(root)

    def demonstration(self) -> Bundle:
        from dynvid.exporter.export import export
        from dynvid.grid.storage.files import sha256_of
        from dynvid.models.layouts import load_training_checkpoint

        checkpoint = DEMONSTRATION / "network.pth"
        root = self.folder / f"demonstration-{sha256_of(checkpoint)[:12]}"
        with self.turn(root.name):
            if not root.exists():
                export(load_training_checkpoint(checkpoint).network, root, source_sha256=sha256_of(checkpoint))
        return Bundle.open(root)

    @contextlib.contextmanager
    def turn(self, name: str):
        """Let one process at a time make ``name``: tests run in two."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _key(self, config: dict, seed: int) -> str:
        text = json.dumps([config, seed], sort_keys=True)
        return f"{config['network']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@pytest.fixture(scope="session")
def exports() -> Exports:
    sources = _source_hash("grid", "models", "exporter", "runtime", "calibration")
    return Exports(ROOT / ".cache" / "exports" / sources)


@pytest.fixture(scope="session", autouse=True)
def graphs_exported_once():
    """Let torch export modules of one structure once: it takes a second for each, and tests export like networks often.

    The weights of a graph are its module's tensors by name, so the graph of other weights is the same but for them
    (``test_the_graphs_that_tests_share_are_what_torch_exports``). What compares two exports of one network runs them
    in processes of their own.
    """
    from dynvid.exporter.split import bundle_builder as draft

    folder = ROOT / ".cache" / "graphs" / _source_hash("grid", "models", "exporter/split", "exporter/graphs/lint.py")
    original, draft.to_onnx = draft.to_onnx, SharedGraphs(folder, draft.to_onnx)
    yield
    draft.to_onnx = original


@pytest.fixture(scope="session")
def tiny_network(exports: Exports):
    return exports.network(TINY)


@pytest.fixture(scope="session")
def tiny_bundle(exports: Exports) -> Bundle:
    return exports.bundle(TINY, ("fp32", "fp16"))
