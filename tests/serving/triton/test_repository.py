"""The model repository for Triton: what is written, what is refused, and the model in it with a stand-in for Triton."""

import importlib.util
import json
import re
import sys

import numpy as np
import pytest
import triton_fake
from command_line import ok, refused
from samples import write_noise

import dynvid
from dynvid.grid.thresholds import Thresholds
from dynvid.serving.answer import OUTPUTS, tensors, to_json
from dynvid.training.clips import write_clips


@pytest.fixture
def thresholds(tiny_bundle, tmp_path):
    path = tmp_path / "T.json"
    Thresholds(tiny_bundle.sha256, (0.21, 0.22, 0.9, None)).write(path)
    return path


def request(outputs=tuple(OUTPUTS), **inputs):
    return triton_fake.InferenceRequest("dynvid", outputs, [triton_fake.Tensor(*item) for item in inputs.items()])


def found_in(response):
    return {one.name(): one.as_numpy() for one in response.output_tensors()}


@pytest.fixture
def triton(monkeypatch):
    """Return a function that loads a repository's model as Triton's Python backend does."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_fake)
    models = []

    def load(folder):
        spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        text = (folder / "config.pbtxt").read_text()
        options = json.loads(re.search(r'string_value: (".*") }', text)[1])
        models.append(loaded.TritonPythonModel())
        config = json.dumps({"parameters": {"options": {"string_value": options}}})
        models[-1].initialize({"model_config": config, "model_repository": str(folder), "model_version": "1"})
        return models[-1]

    yield load
    for model in models:
        model.finalize()


def test_the_model_answers_as_dynvid_does(tiny_bundle, thresholds, tmp_path, triton):
    write_noise(tmp_path, 4)
    write_clips(tmp_path, 1, seed=5)
    clip = next(tmp_path.rglob("*.mp4"))
    videos = [np.load(tmp_path / f"{n}.npy") for n in range(4)]
    folder = dynvid.export_triton(tiny_bundle.root, tmp_path / "models", thresholds=thresholds, threads=1)
    model = triton(folder)
    requests = [request(frames=video[None]) for video in videos]
    requests += [
        request(clip=np.array([[clip.read_bytes()]], object), outputs=["label", "warnings"]),
        request(clip=np.array([[b"no video"]], object)),
        request(clip=np.array([[b""]], object)),
        request(frames=np.zeros((2, 3, 8, 8, 3), np.uint8)),
        request(),
    ]
    found = model.execute(requests)
    with dynvid.load(tiny_bundle.root, thresholds=thresholds, threads=1) as plain:
        for video, response in zip([*videos, clip], found, strict=False):
            assert not response.has_error()
            wanted = tensors(to_json(plain.classify(video)))
            for name, array in found_in(response).items():
                assert array.dtype == wanted[name].dtype and array.shape == wanted[name].shape
                assert name.endswith("_ms") or array.tolist() == wanted[name].tolist()
    assert list(found_in(found[4])) == ["label", "warnings"]
    assert [response.has_error() for response in found] == [False] * 5 + [True] * 4
    assert "video 'clip'" in found[5].error().message() and "/proc" not in found[5].error().message()
    assert {response.error().code() for response in found[5:]} == {triton_fake.TritonError.INVALID_ARG}


def test_an_export_is_replaced_and_nothing_else_is(tiny_bundle, tmp_path):
    models = tmp_path / "models"
    ok("export-triton", tiny_bundle.root, "-o", models, "--batch", "3", "--name", "tiny")
    assert "max_batch_size: 3" in (models / "tiny" / "config.pbtxt").read_text()
    ok("export-triton", tiny_bundle.root, "-o", models, "--batch", "5", "--name", "tiny", "--queue-delay", "0.5")
    text = (models / "tiny" / "config.pbtxt").read_text()
    ok("export-triton", tiny_bundle.root, "-o", models, "--name", "tiny", "--engines", "none")
    assert r"\"engines\": \"none\"" in (models / "tiny" / "config.pbtxt").read_text()
    assert "max_batch_size: 5" in text and "max_queue_delay_microseconds: 500" in text
    assert [path.name for path in models.iterdir()] == ["tiny"]
    (models / "theirs").mkdir()
    (models / "theirs" / "config.pbtxt").write_text('name: "theirs"')
    said = refused(2, "export-triton", tiny_bundle.root, "-o", models, "--name", "theirs")
    assert "exists and is not an export of this command" in said
    assert (models / "theirs" / "config.pbtxt").exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(tiny_bundle, thresholds, tmp_path):
    models = tmp_path / "models"
    assert "--name 'a/b'" in refused(2, "export-triton", tiny_bundle.root, "-o", models, "--name", "a/b")
    Thresholds("0" * 64, (0.5, 0.5, 0.5, None)).write(thresholds)
    refused(4, "export-triton", tiny_bundle.root, "-o", models, "--thresholds", thresholds)
    refused(2, "export-triton", tiny_bundle.root, "-o", models, "--precision", "int8")
    refused(2, "export-triton", tiny_bundle.root, "-o", models, "--engines", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    said = refused(2, "export-triton", tiny_bundle.root, "-o", models, "--engines", tmp_path / "empty")
    assert "/empty' holds no engines: give a folder that 'dynvid build-engines' wrote" in said
    assert "-o '': expected a path" in refused(2, "export-triton", tiny_bundle.root, "-o", "")
    refused(4, "export-triton", tmp_path, "-o", models)
    for options, said in (
        (("--threads", 0), "threads 0: expected a whole number"),
        (("--backend", "nope"), "backend 'nope': expected one of auto, onnxruntime"),
        (("--backend", "null"), "backend 'null': expected one of auto"),
        (("--backend", "onnxruntime", "--precision", "bf16"), "since only it computes in bf16"),
    ):
        assert said in refused(2, "export-triton", tiny_bundle.root, "-o", models, *options)
    inside = tiny_bundle.root / "models"
    assert "is inside the bundle" in refused(2, "export-triton", tiny_bundle.root, "-o", inside)
    for delay in ("nan", "inf", "1e30"):
        refused(2, "export-triton", tiny_bundle.root, "-o", models, "--queue-delay", delay)
    assert not models.exists() and not inside.exists()
