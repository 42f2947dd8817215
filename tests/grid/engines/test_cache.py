"""The ledger of engines: what fits is found, and of what does not every field that differs is named."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from engine_samples import KEY, WANTED, plan_of, put, resealed

from dynvid.grid.engines.cache import EngineCache, Profile, engines_folder, this_platform
from dynvid.grid.errors import EngineFileError, MissingEngineError, StaleEngineError, UsageError


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "k400.engines")


def command(cache, options="--precision fp16 --target sm86,sm89 --max-batch 32", flavour="tensorrt-rtx"):
    return f"'dynvid build-engines {cache.bundle} --backend {flavour}{options and ' '}{options}'"


# finding


def test_an_engine_reads_back_as_it_was_written(cache):
    written = put(cache, payload=b"one")
    assert cache.find(WANTED) == written
    assert cache.has(KEY) == written
    assert cache.read(written) == plan_of(b"one")
    assert cache.engines() == ((written,), {})
    assert (written.key, written.seconds, written.dtype_census) == (KEY, 0.5, {"layers": {"HALF": 3}})


def test_the_plan_is_a_pure_file_and_the_sidecar_lies_beside_it(cache):
    engine = put(cache)
    stem = f"block0.fp16.tensorrt-rtx.{KEY.digest[:12]}"
    assert sorted(os.listdir(cache.folder)) == [".lock", f"{stem}.json", f"{stem}.plan"]
    assert (cache.folder / engine.plan).read_bytes() == plan_of()


def test_the_digest_is_the_same_in_every_process():
    assert KEY.digest[:12] == "231c44001f9b"


@pytest.mark.parametrize(
    "change",
    [
        {"onnx_sha256": None},
        {"device": None},
        {"device": "sm86"},
        {"cuda": None},
        {"cuda": "14"},
        {"batch": 1},
        {"batch": 32},
        {"frames": (16,)},
    ],
)
def test_an_engine_fits_what_it_was_built_for(cache, change):
    engine = put(cache)
    assert cache.find(dataclasses.replace(WANTED, **change)) == engine


@pytest.mark.parametrize("device", ["sm80", "sm87", "sm90", "sm120"])
def test_an_untargeted_engine_is_for_ampere_and_later(cache, device):
    engine = put(cache, dataclasses.replace(KEY, targets=()))
    assert cache.find(dataclasses.replace(WANTED, device=device)) == engine


def test_a_fused_segment_has_fixed_frames(cache):
    key = dataclasses.replace(KEY, subgraph="segment1", fusion=1, profiles=(Profile((1, 2, 4), None),))
    engine = put(cache, key)
    wanted = dataclasses.replace(WANTED, subgraph="segment1", fusion=1, onnx_sha256=None, batch=4, frames=())
    assert cache.find(wanted) == engine
    with pytest.raises(StaleEngineError, match=r"profiles batch 1\.\.2\.\.4, needed batch 4 frames 2"):
        cache.find(dataclasses.replace(wanted, frames=(2,)))


def test_one_profile_must_hold_the_batch_and_all_frames(cache):
    put(cache, dataclasses.replace(KEY, profiles=(Profile((1, 1, 1), (1, 4, 16)), Profile((2, 4, 8), (4, 4, 4)))))
    with pytest.raises(StaleEngineError, match="needed batch 8 frames 2,4,16"):
        cache.find(WANTED)


@pytest.mark.parametrize("newest", range(3))
def test_the_newest_engine_that_fits_is_taken(cache, monkeypatch, newest):
    every = [("sm89",), ("sm86", "sm89"), ()]
    for index, targets in enumerate(every):
        monkeypatch.setattr("time.gmtime", lambda index=index: (2026, 1, 1, 0, 0, 30 * (index == newest), 3, 1, 0))
        put(cache, dataclasses.replace(KEY, targets=targets))
    assert cache.find(WANTED).key.targets == every[newest]


@pytest.mark.parametrize("there", [False, True])
def test_without_an_engine_the_command_that_builds_it_is_named(cache, there):
    if there:
        cache.folder.mkdir()
        (cache.folder / "notes.json").write_text("{}")
    with pytest.raises(MissingEngineError, match="block0 in fp16 for tensorrt-rtx") as caught:
        cache.find(WANTED)
    assert command(cache, "--precision fp16 --max-batch 8") in str(caught.value)
    assert caught.value.exit_code == 4


MISMATCHES = [
    ("subgraph", {"subgraph": "block1"}, {}, "subgraph block1, needed block0", None),
    ("precision", {"precision": "fp32"}, {}, "precision fp32, needed fp16", None),
    ("onnx", {"onnx_sha256": "c3" * 32}, {}, "onnx_sha256 c3c3c3c3…, needed a1a1a1a1…", None),
    ("bundle", {"bundle_sha256": "c3" * 32}, {}, "bundle_sha256 c3c3c3c3…, needed b2b2b2b2…", None),
    ("fusion", {"fusion": 7}, {}, "fusion 7, needed 0", None),
    ("flavour", {"flavour": "tensorrt", "targets": ("sm89",)}, {}, "flavour tensorrt, needed tensorrt-rtx",
     "--precision fp16 --max-batch 32"),
    ("version", {"version": "1.7.0.90"}, {}, r"version 1.7.0.90, needed 1.7.1.116", None),
    ("platform", {"platform": "linux-aarch64"}, {}, "platform linux-aarch64, needed linux-x86_64", None),
    ("cuda", {}, {"cuda": "12"}, "cuda 13, but the driver has 12", None),
    ("targets", {}, {"device": "sm120"}, "targets sm86,sm89, needed sm120",
     "--precision fp16 --target sm86,sm89,sm120 --max-batch 32"),
    ("targets: no GPU that can be named", {}, {"device": "sm90"}, "targets sm86,sm89, needed sm90",
     "--precision fp16 --max-batch 32"),
    ("targets: Turing", {"targets": ()}, {"device": "sm75"}, "targets sm80 and later, needed sm75",
     "--precision fp16 --target sm75 --max-batch 32"),
    ("largest batch", {}, {"batch": 48},
     "profiles batch 1..1..1 frames 2..4..16 or batch 1..5..32 frames 2..4..16, needed batch 48 frames 2,4,16",
     "--precision fp16 --target sm86,sm89 --max-batch 48"),
    ("least batch", {"profiles": (Profile((9, 9, 32), (2, 4, 16)),)}, {},
     "profiles batch 9..9..32 frames 2..4..16, needed batch 8", None),
    ("largest frames", {}, {"frames": (4, 17)}, "needed batch 8 frames 4,17", None),
    ("least frames", {}, {"frames": (1, 4)}, "needed batch 8 frames 1,4", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "wanted", "said", "options"), [m[1:] for m in MISMATCHES], ids=[m[0] for m in MISMATCHES]
)
def test_a_field_that_differs_is_refused_with_both_values_and_the_command(cache, engine, wanted, said, options):
    put(cache, dataclasses.replace(KEY, **engine))
    with pytest.raises(StaleEngineError) as caught:
        cache.find(dataclasses.replace(WANTED, **wanted))
    text = str(caught.value)
    assert said in text and caught.value.exit_code == 4 and "\n" not in text
    assert text.count("needed") + text.count("the driver has") == 1, "only the field that differs is named"
    assert command(cache, *[options] if options else []) in text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda plan: bytes([plan[0], plan[1] ^ 1]) + plan[2:], r"plan sha256 \w{8}… instead of \w{8}…"),
        (lambda plan: plan + b"\0", "plan size 2049 bytes instead of 2048"),
        (lambda plan: plan[:-1], "plan size 2047 bytes instead of 2048"),
    ],
)
def test_a_plan_that_changed_is_refused_with_both_values_and_the_command(cache, damage, said):
    engine = put(cache)
    path = cache.folder / engine.plan
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EngineFileError, match=said) as caught:
        cache.read(engine)
    assert command(cache) in str(caught.value)
    assert cache.has(KEY) is None, "the command builds it again"


def test_an_expected_size_outside_least_and_largest_is_refused(cache):
    engine = put(cache)
    sidecar = cache.folder / f"{KEY.name}.json"
    content = json.loads(sidecar.read_bytes())
    content["key"]["profiles"][1]["batch"] = [1, 40, 32]
    sidecar.write_bytes(resealed(content))
    with pytest.raises(
        EngineFileError, match=r"profile with batch \(1, 40, 32\): expected 1 <= least <= expected"
    ) as caught:
        cache.find(WANTED)
    assert command(cache, "--precision fp16 --max-batch 8") in str(caught.value)
    with pytest.raises(EngineFileError, match="profile with batch"):
        cache.read(engine)


def test_a_driver_too_old_and_a_gpu_too_old_have_remedies_of_their_own(cache):
    put(cache)
    with pytest.raises(
        StaleEngineError, match="Update the driver to one for CUDA 13, or install the tensorrt-rtx built for"
    ):
        cache.find(dataclasses.replace(WANTED, cuda="12"))
    with pytest.raises(StaleEngineError, match="tensorrt-rtx needs sm75 or later: use another --backend"):
        cache.find(dataclasses.replace(WANTED, device="sm70"))


def test_the_nearest_engine_is_the_one_compared(cache):
    put(cache, dataclasses.replace(KEY, subgraph="another"))
    for build in range(6):
        put(cache, dataclasses.replace(KEY, version=f"1.6.0.{build}", platform="linux-aarch64"))
    nearest = put(cache, dataclasses.replace(KEY, version="1.7.0.90"))
    with pytest.raises(
        StaleEngineError, match=f"the nearest, {re.escape(nearest.plan)}, has version 1.7.0.90, needed 1.7.1"
    ):
        cache.find(WANTED)


def test_the_command_builds_what_is_wanted_in_its_precision_and_flavour(cache):
    engine = put(cache, dataclasses.replace(KEY, flavour="tensorrt", version="10.16.1.11", targets=("sm89",)))
    wanted = dataclasses.replace(WANTED, flavour="tensorrt", version="10.16.1.12")
    with pytest.raises(
        StaleEngineError, match=re.escape(command(cache, "--precision fp16 --max-batch 32", "tensorrt"))
    ):
        cache.find(wanted)
    with pytest.raises(StaleEngineError, match=re.escape(command(cache, "--max-batch 32", "tensorrt"))):
        cache.find(dataclasses.replace(wanted, precision="fp32"))
    (cache.folder / engine.plan).unlink()
    with pytest.raises(EngineFileError, match=re.escape(command(cache, "--precision fp16 --max-batch 32", "tensorrt"))):
        cache.read(engine)


def test_without_a_known_device_the_command_keeps_the_targets(cache):
    put(cache)
    with pytest.raises(StaleEngineError, match=re.escape(command(cache))):
        cache.find(dataclasses.replace(WANTED, device=None, version="1.8.0.1"))


@pytest.mark.parametrize(
    ("folder", "bundle", "said"),
    [
        ("k400.engines", "k400", "build-engines k400 --backend tensorrt-rtx --precision fp16 --max-batch 8'"),
        ("k400.engines", None, "build-engines k400 --backend tensorrt-rtx --precision fp16 --max-batch 8'"),
        (
            "cache",
            "my bundle",
            "build-engines 'my bundle' --backend tensorrt-rtx --precision fp16 --max-batch 8 --engines cache'",
        ),
        ("cache", None, "build-engines BUNDLE --backend tensorrt-rtx --precision fp16 --max-batch 8 --engines cache'"),
    ],
)
def test_the_command_names_the_bundle_and_the_folder(tmp_path, monkeypatch, folder, bundle, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingEngineError, match=re.escape(said)):
        EngineCache(Path(folder), bundle and Path(bundle)).find(WANTED)


def test_engines_lie_beside_the_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert engines_folder(Path("k400/")) == engines_folder(Path("./x/../k400")) == tmp_path / "k400.engines"
    assert engines_folder(Path(".")) == tmp_path.with_name(tmp_path.name + ".engines")


@pytest.mark.parametrize(
    "change",
    [
        {"subgraph": "../block0"},
        {"subgraph": "block0\n"},
        {"onnx_sha256": "A1" * 32},
        {"bundle_sha256": ""},
        {"profiles": ()},
        {"targets": ("sm89", "sm86")},
        {"targets": ("sm120", "sm89")},
        {"targets": ("sm89", "sm89")},
        {"targets": ("8.9",)},
        {"flavour": "tensorrt"},
        {"version": ""},
        {"platform": "linux"},
        {"cuda": "13.1"},
    ],
)
def test_a_key_of_the_wrong_form_is_refused(change):
    with pytest.raises(UsageError, match="expected"):
        dataclasses.replace(KEY, **change)


def test_this_platform_has_the_form_of_a_key():
    assert dataclasses.replace(KEY, platform=this_platform()).platform == this_platform()
