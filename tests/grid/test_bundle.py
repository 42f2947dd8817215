"""The bundle on disk: hashes, structure, and writing that leaves the old bundle or the new one."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.grid import bundle as bundle_module
from dynvid.grid.bundle import Bundle, require_target, write_bundle
from dynvid.grid.errors import DynvidError, HashError, InputRefusedError, ManifestError, ResourceError
from dynvid.grid.manifest import VERSION
from dynvid.grid.manifest_reader import read_manifest
from dynvid.grid.storage.strict_json import StrictJsonError, dumps, loads


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """Return a copy that a test may damage."""
    return Bundle.open(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))


def test_every_cell_maps_to_the_one_subgraph_of_its_block(bundle):
    manifest = bundle.manifest
    assert len(manifest.cells) == 4
    assert all(row == ("block0", "block1", "block2") for row in manifest.cells)
    assert manifest.heads == ("head0", "head1", "head2", "head2")
    assert bundle.verify() == 2 * 6


def test_files_that_are_not_of_the_bundle_are_told(bundle, caplog):
    bundle.verify()
    assert not caplog.text
    (bundle.root / "notes.txt").touch()
    bundle.verify()
    assert "1 files in" in caplog.text and "are not of the bundle, such as 'notes.txt'" in caplog.text


def test_a_manifest_reads_back_as_it_was_written(bundle):
    again = read_manifest(bundle.manifest.to_bytes(), "again")
    assert again == bundle.manifest


@pytest.mark.parametrize("position", [0, 1, 100, 2000, -2, -1])
def test_a_manifest_with_one_byte_changed_is_refused(bundle, position):
    path = bundle.root / "manifest.json"
    text = bytearray(path.read_bytes())
    text[position] ^= 1
    path.write_bytes(text)
    with pytest.raises((ManifestError, HashError), match="Run 'dynvid export' again") as caught:
        Bundle.open(bundle.root)
    assert caught.value.exit_code == 4


def test_a_manifest_with_any_one_byte_changed_is_refused(bundle):
    text = bundle.manifest.to_bytes()
    for position in range(0, len(text), 97):
        changed = bytearray(text)
        changed[position] ^= 0x10
        with pytest.raises((ManifestError, HashError)):
            read_manifest(bytes(changed), "changed")


def test_a_manifest_with_another_value_and_its_old_hash_is_refused(bundle):
    content = json.loads(bundle.manifest.to_bytes())
    content["classes"] = 6
    with pytest.raises(HashError, match="has changed since export"):
        read_manifest(dumps(content), "forged")


def _resealed(content):
    from dynvid.grid.storage.sealed import _sealed

    content.pop("sha256", None)
    return _sealed(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=[2, 0]), r"has version 2\.0, but this dynvid reads 1\.x"),
        (lambda c: c.update(version="1"), "expected two numbers"),
        (lambda c: c.update(format="other"), "its format is not"),
        (lambda c: c.update(surprise=1), "unknown key 'surprise'"),
        (lambda c: c.pop("grid"), "key 'grid' is missing"),
        (lambda c: c.update(classes=True), "expected int"),
        (lambda c: c.update(classes="5"), "expected int"),
        (lambda c: c.update(labels=["a"]), "labels: expected one per class"),
        (lambda c: c.update(route_cells=[[3, 2], [2, 2]]), "may decrease"),
        (lambda c: c["cells"][1].__setitem__(1, "block2"), "not a subgraph of block 1"),
        (lambda c: c["cells"].pop(), "cells: 3 rows"),
        (lambda c: c["heads"].__setitem__(0, "block0"), "not a head of block 0"),
        (lambda c: c["heads"].pop(), "one per checkpoint"),
        (lambda c: c["subgraphs"][0]["variants"]["fp32"].update(file="../x.onnx"), "file name"),
        (lambda c: c["subgraphs"][0]["variants"]["fp32"].update(file="/etc/passwd"), "file name"),
        (lambda c: c["subgraphs"][0]["variants"].pop("fp16"), "variants"),
        (lambda c: c["subgraphs"][0]["states"][0].update(input="nowhere"), "has no port"),
        (lambda c: c["subgraphs"].append(c["subgraphs"][0]), "two subgraphs share a name"),
        (lambda c: c["costs"].update(block_macs=[1]), "costs: expected one per block"),
        (lambda c: c["preprocessing"].update(std=[0.0, 1.0, 1.0]), "every std above 0"),
        (lambda c: c.update(precisions=["fp16"]), "fp32 is missing"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_together_is_refused(bundle, change, message):
    content = json.loads(bundle.manifest.to_bytes())
    change(content)
    with pytest.raises(ManifestError, match=message):
        read_manifest(_resealed(content), "odd")


def test_a_newer_minor_version_may_hold_unknown_keys(bundle):
    content = json.loads(bundle.manifest.to_bytes())
    content.update(version=[1, VERSION[1] + 1], surprise=1)
    assert read_manifest(_resealed(content), "newer") == bundle.manifest


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_the_manifest_reader_fail_otherwise(text):
    with pytest.raises(DynvidError):
        read_manifest(text, "noise")


@pytest.mark.parametrize("text", [b'{"a": 1, "a": 2}', b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b"", b"{"])
def test_json_is_read_strictly(text):
    with pytest.raises(StrictJsonError):
        loads(text)


def test_a_graph_with_one_byte_changed_is_refused(bundle):
    variant = bundle.manifest.subgraph("block1").variant("fp32")
    path = bundle.root / variant.file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(HashError, match=r"block1\.onnx has changed since export \(sha256 .* instead of"):
        bundle.read(variant)


def test_every_pair_of_files_swapped_is_refused(bundle):
    files = [v.file for s in bundle.manifest.subgraphs for v in s.variants.values()]
    for one in files:
        for other in files:
            if one < other:
                a, b, spare = bundle.root / one, bundle.root / other, bundle.root / "spare"
                a.rename(spare), b.rename(a), spare.rename(b)
                with pytest.raises(HashError, match="has changed since export"):
                    bundle.verify()
                a.rename(spare), b.rename(a), spare.rename(b)
    bundle.verify()


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "link", "folder", "fifo"])
def test_a_graph_that_is_not_the_file_it_was_is_refused(bundle, kind):
    path = bundle.root / "block0.onnx"
    content = path.read_bytes()
    path.unlink()
    if kind == "truncated":
        path.write_bytes(content[:-1])
    elif kind == "empty":
        path.touch()
    elif kind == "link":
        (bundle.root / "elsewhere").write_bytes(content)
        path.symlink_to(bundle.root / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(HashError, match=r"block0\.onnx"):
        bundle.verify()


@pytest.mark.parametrize("where", ["missing", "text", "file"])
def test_what_is_no_bundle_is_refused(tmp_path, where):
    root = tmp_path / "b"
    if where == "text":
        root.mkdir()
        (root / "manifest.json").write_text("hello")
    elif where == "file":
        root.write_text("hello")
    with pytest.raises(ManifestError):
        Bundle.open(root)


# writing


def files_of(bundle):
    return {v.file: bundle.read(v) for s in bundle.manifest.subgraphs for v in s.variants.values()}


def test_a_bundle_is_replaced_by_the_new_one_and_nothing_is_left_beside_it(bundle, tmp_path):
    (bundle.root / "old.onnx").touch()
    again = write_bundle(bundle.root, bundle.manifest, files_of(bundle))
    assert again.sha256 == bundle.sha256
    assert not (bundle.root / "old.onnx").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(bundle, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    with pytest.raises(InputRefusedError, match="exists and is not a bundle: give another -o"):
        write_bundle(precious, bundle.manifest, files_of(bundle))
    assert (precious / "file").exists()


@pytest.mark.parametrize("spoil", ["another manifest", "a file beside"])
def test_a_folder_that_only_looks_like_a_bundle_is_never_replaced(bundle, tmp_path, spoil):
    if spoil == "another manifest":
        (bundle.root / "manifest.json").write_text('{"name": "an extension of a browser"}')
    else:
        (bundle.root / "thesis.txt").touch()
    before = sorted(p.name for p in bundle.root.iterdir())
    with pytest.raises(InputRefusedError, match="is not a bundle"):
        write_bundle(bundle.root, bundle.manifest, files_of(Bundle(bundle.root, bundle.manifest, "")))
    assert sorted(p.name for p in bundle.root.iterdir()) == before


def test_a_link_to_a_bundle_stays_a_link(bundle, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(bundle.root)
    write_bundle(link, bundle.manifest, files_of(bundle))
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "link"]


_WRITER = """
import sys
from pathlib import Path
from dynvid.grid.bundle import Bundle, write_bundle
old = Bundle.open(Path(sys.argv[1]))
files = {v.file: old.read(v) for s in old.manifest.subgraphs for v in s.variants.values()}
print("ready", flush=True)
while True:
    write_bundle(Path(sys.argv[2]), old.manifest, files)
"""


def test_a_writer_killed_at_any_time_leaves_a_whole_bundle(bundle, tmp_path):
    target = tmp_path / "target"
    shutil.copytree(bundle.root, target)
    for attempt in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(bundle.root), str(target)], stdout=subprocess.PIPE
        )
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.003 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert Bundle.open(target).verify() == 12


def test_a_full_disk_leaves_the_old_bundle_and_says_so(bundle, tmp_path):
    target = tmp_path / "target"
    shutil.copytree(bundle.root, target)
    largest = max(len(content) for content in files_of(bundle).values())

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    writer = subprocess.run(
        [sys.executable, "-c", _WRITER, str(bundle.root), str(target)], preexec_fn=limit, capture_output=True, text=True
    )
    assert "ResourceError" in writer.stderr and "what was there before is untouched" in writer.stderr
    assert Bundle.open(target).verify() == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "target"]


def test_a_target_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(bundle_module, "_mount_points", lambda: {str(tmp_path / "volume")})
    with pytest.raises(
        InputRefusedError, match="volume' is a mount point.*give a folder in it, such as .*model.bundle"
    ):
        require_target(tmp_path / "volume")
    require_target(tmp_path / "volume" / "model.bundle")
    with pytest.raises(ResourceError, match=r"cannot be written .*: (give another -o|allow this user)"):
        require_target(Path("/proc/model.bundle"))
    require_target(tmp_path / "new" / "model.bundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["volume"]


def test_the_mount_points_are_those_of_the_system():
    if Path("/proc/self/mountinfo").exists():
        assert {"/", "/proc"} <= bundle_module._mount_points()
