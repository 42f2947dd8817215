"""Engines are looked up with what the bundle, the route, the TensorRT and the GPU say."""

import pytest
from host_device import HostDevice
from samples import TINY

from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.engines.makers import for_onnxruntime
from dynvid.exporter.graphs.fuse import fuse
from dynvid.grid.engines.plan_header import read_header
from dynvid.grid.errors import EngineFileError, MissingEngineError, StaleEngineError, UsageError
from dynvid.grid.route import parse_route
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.backends.tensorrt import TensorRTBackend
from dynvid.runtime.backends.tensorrt_api import open_api
from dynvid.runtime.execution.engine_lookup import open_engines


@pytest.fixture(scope="module")
def api():
    pytest.importorskip("tensorrt_rtx")
    return open_api("tensorrt-rtx")


@pytest.fixture(scope="module")
def folder(api, tiny_bundle, tmp_path_factory):
    """Return a folder with real engines of TensorRT-RTX: two subgraphs and a segment."""
    folder = tmp_path_factory.mktemp("engines")
    rows = build_engines(tiny_bundle, folder, precision="fp16", only=("block1", "head1", "segment2"), max_batch=4)
    assert [row.status for row in rows] == ["built"] * 3
    return folder


def engines(bundle, api, folder, device=None, **options):
    backend = TensorRTBackend(api, device or HostDevice("sm86"))
    return open_engines(bundle, backend, folder, **{"precision": "fp16", **options})


def subgraph(bundle, name):
    return bundle.manifest.subgraph(name)


@pytest.mark.parametrize("batch", [1, 4])
def test_what_was_built_is_found_and_read(api, folder, tiny_bundle, batch):
    found = engines(tiny_bundle, api, folder, batch=batch)
    for part in (
        subgraph(tiny_bundle, "block1"),
        subgraph(tiny_bundle, "head1"),
        fused_segments(tiny_bundle.manifest, "fp16")[1],
    ):
        assert found.find(part).key.subgraph == part.name
        assert read_header(found.plan(part)).flavour == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("options", "gpu", "message"),
    [
        ({"batch": 5}, {}, "profiles batch 1..1..1 .*needed batch 5"),
        ({"precision": "fp32"}, {}, "precision fp16, needed fp32"),
        ({}, {"compute_capability": "sm75"}, "targets sm80 and later, needed sm75"),
        ({}, {"cuda_version": (12, 4)}, "cuda 13, but the driver has 12"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_command(api, folder, tiny_bundle, options, gpu, message):
    device = HostDevice("sm86")
    for name, value in gpu.items():
        setattr(device, name, value)
    with pytest.raises(StaleEngineError, match=rf"{message}.*dynvid build-engines"):
        engines(tiny_bundle, api, folder, device, **options).plan(subgraph(tiny_bundle, "block1"))


def test_a_subgraph_that_was_not_built_is_named(api, folder, tiny_bundle):
    with pytest.raises(StaleEngineError, match="subgraph .*needed full"):
        engines(tiny_bundle, api, folder).plan(fused_full(tiny_bundle.manifest, "fp16"))


def test_without_a_folder_it_is_the_one_beside_the_bundle(api, tiny_bundle):
    with pytest.raises(MissingEngineError, match=rf"no engine in '{tiny_bundle.root}.engines'.*dynvid build-engines"):
        engines(tiny_bundle, api, None).plan(subgraph(tiny_bundle, "block1"))


def test_a_damaged_plan_is_refused(api, folder, tiny_bundle, tmp_path):
    copy = tmp_path / "engines"
    copy.mkdir()
    for file in folder.glob("block1.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    found = engines(tiny_bundle, api, copy)
    part = subgraph(tiny_bundle, "block1")
    plan = copy / found.find(part).plan
    plan.write_bytes(plan.read_bytes()[:-1] + b"\0")
    with pytest.raises(EngineFileError, match="sha256"):
        found.plan(part)


def test_the_frames_of_a_subgraph_are_those_of_its_calls(tiny_bundle):
    # two frames a set, route (1,0) (1,1) (2,2) (3,2): block 0 runs sets 0-1, then 2, then 3; so does block 1
    found = open_engines(tiny_bundle, open_backend("onnxruntime"), None)
    facts = {"block0": (2, 4), "block1": (2, 4), "block2": (2, 6), "head0": (4,), "head1": (4,), "head2": (2, 6)}
    for name, frames in facts.items():
        assert found._frames(subgraph(tiny_bundle, name)) == frames
    grid, heads = tiny_bundle.manifest.grid, tiny_bundle.manifest.route.head_blocks
    other = open_engines(tiny_bundle, open_backend("onnxruntime"), None, route=parse_route("3,1 3,2", grid, heads))
    assert [other._frames(subgraph(tiny_bundle, n)) for n in ("block0", "block2", "head0", "head1")] == [
        (8,),
        (8,),
        (),
        (8,),
    ]


# onnxruntime


@pytest.fixture
def fused(tiny_bundle, tmp_path):
    """Return a folder with the fused segments for onnxruntime."""
    assert {row.status for row in build_engines(tiny_bundle, tmp_path, "onnxruntime")} == {"built"}
    return tmp_path


def test_onnxruntime_finds_its_own_engines_for_any_batch(fused, tiny_bundle):
    parts = fused_segments(tiny_bundle.manifest, "fp32")
    for batch in (1, 7, 500):
        found = open_engines(tiny_bundle, open_backend("onnxruntime"), fused, batch=batch)
        assert [found.plan(part) for part in parts] == [
            for_onnxruntime(fuse(tiny_bundle, part, "fp32")) for part in parts
        ]
        assert found.best_batch(parts[0]) == 1
    assert found.begun(parts) and not open_engines(tiny_bundle, open_backend("onnxruntime"), fused, "fp16").begun(parts)
    with pytest.raises(
        StaleEngineError, match="batch 4097. Run 'dynvid build-engines [^']* --backend onnxruntime --eng"
    ):
        open_engines(tiny_bundle, open_backend("onnxruntime"), fused, batch=4097).plan(parts[0])


def test_what_was_begun_is_known_by_its_name_even_when_damaged(fused, tiny_bundle):
    parts = fused_segments(tiny_bundle.manifest, "fp32")
    found = open_engines(tiny_bundle, open_backend("onnxruntime"), fused)
    for file in fused.iterdir():
        if not file.name.startswith("segment3."):
            file.unlink()
    assert found.begun(parts) and not found.begun(parts[:2])
    for sidecar in fused.glob("*.json"):
        sidecar.write_bytes(b"{}")
    assert found.begun(parts) and not found.begun(parts[:2])


def test_another_version_or_bundle_is_stale(fused, tiny_bundle, monkeypatch, exports):
    parts, other = fused_segments(tiny_bundle.manifest, "fp32"), exports.bundle(TINY, seed=1)
    with pytest.raises(StaleEngineError, match=f"bundle_sha256 {tiny_bundle.sha256[:8]}.*needed {other.sha256[:8]}"):
        open_engines(other, open_backend("onnxruntime"), fused).plan(parts[0])
    monkeypatch.setattr("onnxruntime.__version__", "9.9.9")
    with pytest.raises(StaleEngineError, match="needed 9.9.9. Run 'dynvid build-engines .* --backend onnxruntime"):
        open_engines(tiny_bundle, open_backend("onnxruntime"), fused).plan(parts[0])


def test_a_backend_that_runs_no_engines_says_so(tiny_bundle):
    with pytest.raises(UsageError, match="backend 'null' runs the bundle's graphs: leave --engines out"):
        open_engines(tiny_bundle, open_backend("null"))
