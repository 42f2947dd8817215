"""What of the work on Ray needs no Ray; tests/full/test_ray.py runs a cluster."""

import socket
import subprocess
import sys

import numpy as np
import pytest
from command_line import refused

from dynvid.api import classify_on_ray
from dynvid.grid.errors import BackendError, MissingPackageError, UsageError
from dynvid.runtime.open_model import open_model
from dynvid.runtime.results.merge import MEASURED
from dynvid.runtime.video.listing import ListedVideo
from dynvid.serving.ray import Classifier, rows_of
from dynvid.serving.ray_cluster import require_listening


def fixed(record):
    return {key: value for key, value in record.items() if key not in MEASURED}


def test_a_batch_gives_the_records_of_one_process_in_its_order(tiny_bundle, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 256, (6 + i, 40, 44, 3), np.uint8))
    names = [str(tmp_path / f"{i}.npy") for i in (3, 0, 4, 9, 1)]
    batch = {"video": np.array(names, object), "label": ["a", None, "b", "c", "a"], "id": np.arange(5)}
    classifier = Classifier(tiny_bundle.root, threads=1)
    found = classifier.records(rows_of(batch))
    with open_model(tiny_bundle) as model:
        rows = [ListedVideo.of(*row) for row in zip(names, batch["label"], "01234", strict=True)]
        expected = {record["id"]: fixed(record) for record in model.records(rows)}
    assert [fixed(record) for record in found] == [expected[key] for key in "01234"]
    assert [record["status"] for record in found] == ["ok", "ok", "ok", "damaged", "ok"]
    classifier.model.close()


def test_columns_beside_the_video_are_optional():
    assert rows_of({"video": ["a.mp4", "s3://b/c.mp4"]}) == [ListedVideo.of("a.mp4"), ListedVideo.of("s3://b/c.mp4")]


@pytest.mark.parametrize(
    "options",
    [[], ["-o", "out", "--shard", "1/2"], ["-o", "out", "--retry-failed"], ["-o", "out", "--report", "a.html"]],
)
def test_what_does_not_go_with_ray_is_refused(options, tiny_bundle):
    said = refused(2, "classify", tiny_bundle.root, "a.mp4", *options, "--ray", "auto")
    assert "--ray writes to a folder: give -o OUT, without --shard, --json and --report" in said
    assert "for a cluster: add --ray" in refused(2, "classify", tiny_bundle.root, "a.mp4", "--actors", 2)


def test_without_ray_it_is_one_line_that_says_what_to_install(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"Install it: pip install 'dynvid\[ray\]'"):
        classify_on_ray(tiny_bundle.root, [tmp_path / "a.mp4"], tmp_path / "out")


def test_an_address_where_nobody_listens_is_said_at_once():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://localhost:{port}", "127.0.0.1:99999", "no.such.host.invalid:6379"):
        with pytest.raises(
            BackendError, match=f"^--ray '{address}' cannot be reached .*: expected the address of a clust"
        ):
            require_listening(address)
    for address in ("auto", "local"):
        require_listening(address)


@pytest.mark.parametrize("share", ["nan", "inf", "-1"])
def test_a_share_of_a_gpu_is_a_number(share, tiny_bundle, tmp_path):
    options = ("--ray", "local", "-o", tmp_path / "out", "--gpus-per-actor", share)
    assert "--gpus-per-actor" in refused(2, "classify", tiny_bundle.root, "a.mp4", *options)
    with pytest.raises(UsageError, match="gpus_per_actor .*: expected a share of a GPU"):
        classify_on_ray(tiny_bundle.root, [tmp_path / "a.mp4"], tmp_path / "out", gpus_per_actor=float(share))


def test_the_class_is_there_without_ray_and_pyarrow():
    code = "import sys, dynvid.serving.ray; sys.exit(bool({'ray', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
