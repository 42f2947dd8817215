"""The route, run in pieces on a backend, computes what the whole network computes."""

import dataclasses
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from samples import FIVE_BLOCKS, TINY, TWO_BLOCKS, every_monotone_route

from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import BackendError, UsageError
from dynvid.grid.route import Route, preset
from dynvid.grid.topology import Cell
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.session import ArraySource, Session


def clips_of(network, count=2):
    return proof_clips(count, network.grid.num_frames, network.config.preprocessing)


def whole(network, route, clip):
    order = list(network.grid.frame_order)
    with torch.no_grad():
        return torch.cat(network.with_route(route)(torch.from_numpy(clip[order])[None])).numpy()


@pytest.mark.parametrize(("stride", "linked"), [(1, True), (1, False), (3, True), (2, False)])
def test_on_every_route_of_a_small_grid_split_equals_whole(exports, linked, stride):
    table = {**TWO_BLOCKS, "groups_linked": linked, "shift": {"stride": stride}}
    network, bundle = exports.network(table), exports.bundle(table)
    clip, backend = clips_of(network)[1], open_backend("onnxruntime")
    routes = every_monotone_route(network.grid)
    assert len(routes) > 20
    for route in routes:
        expected = whole(network, route, clip)
        found = Session.open(bundle, backend, route=route).classify(ArraySource(clip), trace=True)
        assert np.abs(np.stack(found.logits) - expected).max() <= 1e-4 * expected.std(axis=1).mean()


@pytest.mark.parametrize(
    "change",
    [
        {"head": {"width": 8, "share_classifier": False}},
        {"head": {"style": "linear"}},
        {"shift": {"enabled": False}},
        {"permutation": "none", "frames_per_set": 1},
    ],
    ids=["a linear layer a checkpoint", "linear heads", "no shift", "in temporal order"],
)
def test_other_configurations_export_and_agree(exports, change):
    table = {**TINY, **change}
    network, bundle = exports.network(table), exports.bundle(table)
    clip = clips_of(network)[0]
    expected = whole(network, network.route, clip)
    found = Session.open(bundle, open_backend("onnxruntime")).classify(ArraySource(clip), trace=True)
    assert np.abs(np.stack(found.logits) - expected).max() <= 1e-4 * expected.std(axis=1).mean()
    if change.get("head", {}).get("share_classifier") is False:
        assert bundle.manifest.heads[2:] == ("head2.checkpoint3", "head2.checkpoint4")


def test_a_video_leaves_nothing_for_the_next(tiny_bundle, tiny_network):
    """Every tensor filled with NaN between two videos changes no bit: nothing is read before it is written."""
    session = Session.open(tiny_bundle, open_backend("onnxruntime"))
    first, second = clips_of(tiny_network)
    expected = [z.tobytes() for z in session.classify(ArraySource(second), trace=True).logits]
    session.classify(ArraySource(first))
    executor = session.executor
    inside = executor._programs[0]._cells._scratch.values()
    assert inside
    for value in (*inside, *executor.store.arrays.values(), *executor._inputs.values(), *executor._outputs.values()):
        value.fill(np.nan)
    found = session.classify(ArraySource(second), trace=True)
    assert [z.tobytes() for z in found.logits] == expected


@pytest.mark.parametrize("name", ["joint", "depth", "input", "full"])
def test_null_backend_counts_one_launch_a_span_and_a_head(exports, name):
    bundle, backend = exports.bundle(FIVE_BLOCKS), open_backend("null")
    grid = bundle.manifest.grid
    route = preset(name, grid, range(5))
    session = Session.open(bundle, backend, route=route)
    clip = np.zeros((16, 3, 32, 32), np.float32)
    session.classify(ArraySource(clip))
    expected = Counter()
    for segment, cell in zip(route.segments, route.cells, strict=True):
        for span in segment.spans:
            expected[f"block{span.block}", (span.stop - span.start) * 2] += 1
        new = route.embedded(segment.index, cell.block) - route.embedded(segment.index - 1, cell.block)
        expected[f"head{cell.block}", new * 2] += 1
    assert backend.launches == expected


def test_a_route_beyond_the_bundle_is_refused(tiny_bundle):
    grid = tiny_bundle.manifest.grid
    manifest = dataclasses.replace(tiny_bundle.manifest, route_cells=((3, 2),), heads=("head2",))
    on_the_last_block_only = dataclasses.replace(tiny_bundle, manifest=manifest)
    with pytest.raises(UsageError, match="0 heads on that block"):
        Executor(on_the_last_block_only, open_backend("null"), route=Route(grid, (Cell(0, 0),)))


def test_a_precision_that_the_bundle_lacks_is_refused(exports):
    with pytest.raises(UsageError, match="holds fp32. Export again with --precision fp16"):
        Executor(exports.bundle(TWO_BLOCKS), open_backend("null"), "fp16")


def test_an_unknown_backend_is_refused():
    with pytest.raises(UsageError, match="backend 'tpu': expected one of onnxruntime, "):
        open_backend("tpu")


def test_a_graph_that_does_not_load_is_a_backend_error(tiny_bundle):
    variant = tiny_bundle.manifest.subgraph("block0").variant("fp32")
    with pytest.raises(BackendError, match="cannot load block0"):
        open_backend("onnxruntime").load(b"not an onnx file", variant, "block0")


def test_a_call_must_name_every_port(tiny_bundle):
    backend = open_backend("onnxruntime")
    variant = tiny_bundle.manifest.subgraph("block0").variant("fp32")
    program = backend.load(tiny_bundle.read(variant), variant, "block0")
    with pytest.raises(BackendError, match="ports .*frames"):
        program.prepare({}, {})


def test_idle_programs_do_not_spin(tiny_bundle):
    """What the threads of a process do while nothing is asked of them; onnxruntime's default is to spin for the next call."""
    backend = open_backend("onnxruntime", 2)
    calls = []
    for subgraph in tiny_bundle.manifest.subgraphs:
        variant = subgraph.variant("fp32")
        program = backend.load(tiny_bundle.read(variant), variant, subgraph.name)
        calls.append(
            program.prepare(
                *(
                    {s.name: backend.zeros(s.concrete(2, 8), s.dtype) for s in p}
                    for p in (variant.inputs, variant.outputs)
                )
            )
        )
    for call in calls:
        call()
    spent = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - spent < 0.05


def test_backends_of_one_process_may_have_different_numbers_of_threads(tiny_bundle):
    variant = tiny_bundle.manifest.subgraph("block1").variant("fp32")
    found = []
    for threads in (1, 3):
        backend = open_backend("onnxruntime", threads)
        program = backend.load(tiny_bundle.read(variant), variant, "block1")
        inputs, outputs = (
            {s.name: np.ones(s.concrete(1, 4), s.dtype) for s in ports} for ports in (variant.inputs, variant.outputs)
        )
        program.prepare(inputs, outputs)()
        assert backend.threads == program._session.get_session_options().intra_op_num_threads == threads
        found.append(outputs)
    for name, values in found[0].items():
        np.testing.assert_array_equal(found[1][name], values)


@pytest.mark.parametrize("first", ["dynvid", "the user"])
def test_a_users_own_onnxruntime_sessions_work_beside_ours(tiny_bundle, tmp_path, first):
    """In a process of its own, for what comes first decides."""
    script = f"""
import numpy as np, onnxruntime
from pathlib import Path
from dynvid.grid.bundle import Bundle
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.session import ArraySource, Session

bundle = Bundle.open(Path({str(tiny_bundle.root)!r}))
variant = bundle.manifest.subgraph("block0").variant("fp32")
def own():
    session = onnxruntime.InferenceSession(bundle.read(variant), providers=["CPUExecutionProvider"])
    session.run(None, {{s.name: np.zeros(s.concrete(1, 2), np.float32) for s in variant.inputs}})
def ours():
    size = bundle.manifest.preprocessing.crop
    frames = np.zeros((bundle.manifest.grid.num_frames, 3, size, size), np.float32)
    assert Session.open(bundle, open_backend("onnxruntime")).classify(ArraySource(frames)).status == "ok"
for turn in {(["ours", "own"] if first == "dynvid" else ["own", "ours"]) * 2}:
    globals()[turn]()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_block_whose_spans_are_all_as_long_is_loaded_for_that_length(tiny_bundle):
    """Of the joint route every block's spans differ; of the full route each block has one."""
    plain, found = type(open_backend("null")), {}

    class Backend(plain):
        def load(self, content, ports, name, frames=None):
            found[name] = frames
            return super().load(content, ports, name, frames)

    route, size = tiny_bundle.manifest.route, tiny_bundle.manifest.grid.frames_per_set
    for chosen in (route, route.full):
        found.clear()
        Executor(tiny_bundle, Backend(), route=chosen)
        for name, frames in found.items():
            subgraph = tiny_bundle.manifest.subgraph(name)
            lengths = {s.stop - s.start for k in chosen.segments for s in k.spans if s.block == subgraph.block}
            known = subgraph.kind == "block" and len(lengths) == 1
            assert frames == (lengths.pop() * size if known else None), name
        assert any(found.values()) == (chosen == route.full)


def test_a_program_for_one_length_computes_the_same_and_takes_no_other(tiny_bundle):
    backend, rng = open_backend("onnxruntime"), np.random.default_rng(0)
    variant = tiny_bundle.manifest.subgraph("block1").variant("fp32")
    values = {s.name: rng.standard_normal(s.concrete(1, 4), np.float32) for s in variant.inputs}
    found = []
    for frames in (None, 4):
        outputs = {s.name: np.full(s.concrete(1, 4), np.nan, np.float32) for s in variant.outputs}
        program = backend.load(tiny_bundle.read(variant), variant, "block1", frames)
        program.prepare(values, outputs)()
        found.append(outputs)
    for name, expected in found[0].items():
        np.testing.assert_allclose(found[1][name], expected, rtol=0, atol=1e-5 * expected.std())
    two = ({s.name: np.zeros(s.concrete(1, 2), np.float32) for s in p} for p in (variant.inputs, variant.outputs))
    with pytest.raises(BackendError, match="block1: tensor of port .* has shape"):
        program.prepare(*two)
