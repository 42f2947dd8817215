"""A static bundle classifies as its PyTorch network does, on cells and on engines; thresholds are not for it."""

import json
import shutil

import numpy as np
import pytest
import torch
from static_samples import STATIC

from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.bundle import Bundle
from dynvid.grid.engines.cache import engines_folder
from dynvid.grid.errors import StaticBundleError
from dynvid.grid.thresholds import Thresholds
from dynvid.runtime.open_model import open_model

VIDEOS = 5


@pytest.fixture(scope="module", params=STATIC)
def sample(request, exports, tmp_path_factory):
    """Return a copy of a static bundle, videos, and its network's logits for them, [videos, classes]."""
    name = request.param
    made = exports.bundle(STATIC[name], ("fp32", "fp16"))
    root = shutil.copytree(made.root, tmp_path_factory.mktemp("static") / "bundle")
    network = exports.network(STATIC[name])
    clips = proof_clips(VIDEOS, network.grid.num_frames, network.config.preprocessing, seed=3)
    with torch.no_grad():
        (logits,) = network(torch.from_numpy(clips))
    return Bundle.open(root), clips, logits.numpy()


def found(model, clips):
    answers = [answer for _, answer in model.classify_many(list(clips), ordered=True, trace=True)]
    return np.stack([answer.logits[0] for answer in answers]), answers


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_cells_and_engines_answer_what_pytorch_answers(sample, tmp_path, backend):
    bundle, clips, wanted = sample
    with open_model(bundle, backend=backend, engines="none") as model:
        cells, answers = found(model, clips)
    rows = build_engines(bundle, engines_folder(bundle.root), backend, "fp32")
    assert {row.error for row in rows} == {None}
    with open_model(bundle, backend=backend, batch=3) as model:
        assert model.is_fused
        fused, _ = found(model, clips)
    for logits in (cells, fused):
        np.testing.assert_allclose(logits, wanted, atol=1e-4 * wanted.std(axis=1).mean())
    assert [answer.class_index for answer in answers] == wanted.argmax(axis=1).tolist()
    assert {(answer.checkpoint, answer.fraction) for answer in answers} == {(1, 1.0)}


def test_one_call_runs_each_block_once(sample):
    bundle, _, _ = sample
    (segment,) = bundle.manifest.route.segments
    assert len(segment.spans) == len({span.block for span in segment.spans})
    with open_model(bundle, backend="onnxruntime", engines="none") as model:
        executor = model._streams.streams[0].executor
        assert len(executor.segments) == 1 and executor.store.arrays == {}


def test_thresholds_are_refused(sample, tmp_path):
    bundle, _, _ = sample
    path = tmp_path / "T.json"
    path.write_text(json.dumps({"bundle_sha256": bundle.sha256, "thresholds": [None]}))
    for thresholds in (path, Thresholds(bundle.sha256, (None,))):
        with pytest.raises(StaticBundleError, match="is static: it answers once.*leave --thresholds out"):
            open_model(bundle, thresholds=thresholds)
