"""A manifest whose seal is right and whose contents are not: every entry in turn dropped, swapped, or changed.

Each is refused where it is read, or found by ``verify``, or named below with why it may pass.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from samples import TINY
from static_samples import STATIC

from dynvid.cli import cli
from dynvid.exporter.export import prove_again, verify_structure
from dynvid.exporter.proof import configuration
from dynvid.exporter.proof.configuration import require_configuration
from dynvid.exporter.split.bundle_builder import facts_of
from dynvid.exporter.split.subgraphs import split
from dynvid.grid.bundle import Bundle
from dynvid.grid.errors import ConfigurationError, DynvidError, LintError, ManifestError
from dynvid.grid.manifest_reader import manifest_of, read_manifest
from dynvid.grid.storage.files import sha256_of
from dynvid.grid.storage.sealed import seal
from dynvid.grid.storage.strict_json import StrictJsonError
from dynvid.models.bundled_network import network_of
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.port_check import check_ports

# Entries that may say anything of their type, and why. A test below holds that the list is not longer than it must be.
HARMLESS = {
    r"(subgraphs|precisions)\.\d+": "swapped: they are looked up by name",
    r"versions(\.\w+)?": "for people who look for a cause; nothing reads them",
    r"subgraphs\.\d+\.range": "for people; fp32_only, which is checked, is what was decided by it",
    r"proof(\.(?!int8|rounding|fp32_only)\w+.*)?": "figures for people; verify with the training checkpoint makes them anew",
    r"proof\.rounding(\..*)?": "tolerances of fused segments end at 1e-3 whatever it says; without it they are strictest",
    r"proof\.fp32_only(\..*)?": "why, for people; its keys are checked against fp32_only",
    r"route_cells\.\d+(\.[01])?": "another route over the same blocks and heads, as export --route would have written it",
    r"weights": "dropped: a file with one set of weights has no key",
    r"static": "dropped: a bundle with a route needs no key",
}


@pytest.fixture(scope="module")
def content(tiny_bundle) -> dict[str, Any]:
    return json.loads(tiny_bundle.manifest.to_bytes())


@pytest.fixture(scope="module")
def checkpoint(exports):
    return exports.training_checkpoint(TINY)


def resealed(content: dict[str, Any]) -> bytes:
    content = copy.deepcopy(content)
    version = tuple(content.pop("version"))
    del content["format"], content["sha256"]
    return seal(content, "dynvid.bundle", version)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every entry."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def representative(content: dict[str, Any]) -> list[tuple]:
    """Return the first and the last of the entries that differ by numbers and names only."""
    kinds: dict[str, list[tuple]] = {}
    for path in places(content):
        if path[0] not in ("format", "version", "sha256"):
            kind = (
                str(path)
                if path[0] == "route_cells"
                else ".".join("*" if isinstance(key, int) else re.sub(r"\d+", "*", key) for key in path)
            )
            kinds.setdefault(kind, []).append(path)
    ends = ((paths[0], paths[0 if paths[0][0] == "proof" else -1]) for paths in kinds.values())
    return [path for pair in ends for path in dict.fromkeys(pair)]


def other(value: Any) -> list[Any]:
    """Return other values of the same type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2 if value else 7, -1]
    if isinstance(value, float):
        return [value * 1.5 + 0.25, -1.0]
    if isinstance(value, str):
        return [value + "x", "float16" if value == "float32" else "float32"]
    if isinstance(value, list):
        return [[], value + value[-1:]]
    return [{}] if isinstance(value, dict) else [3, "x"]


def changes(content: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the place, the kind of change, and the changed manifest."""
    for path in representative(content):
        name = ".".join(map(str, path))

        def at(changed: Any, path: tuple = path) -> Any:
            for key in path[:-1]:
                changed = changed[key]
            return changed

        key, value = path[-1], at(content)[path[-1]]
        made = copy.deepcopy(content)
        del at(made)[key]
        yield name, "dropped", made
        for number, new in enumerate(other(value)):
            made = copy.deepcopy(content)
            at(made)[key] = new
            yield name, f"changed {number}", made
        beside = at(content)
        for neighbour in list(beside) if isinstance(beside, dict) else range(len(beside)):
            if neighbour != key and type(beside[neighbour]) is type(value) and beside[neighbour] != value:
                made = copy.deepcopy(content)
                inside = at(made)
                inside[key], inside[neighbour] = inside[neighbour], inside[key]
                yield name, f"swapped with {neighbour}", made
                break


class Verifier:
    """Who finds a changed manifest; what does not depend on the change is computed once."""

    def __init__(self, root, checkpoint, monkeypatch) -> None:
        self.root, self.checkpoint, self.sha256 = root, checkpoint, sha256_of(checkpoint)
        self.network = functools.cache(lambda *_: network_of(self.manifest, checkpoint))
        self.structure = functools.cache(
            lambda _: self.error(lambda: (self.bundle.verify(), verify_structure(self.bundle)))
        )
        self.split = functools.cache(split)
        monkeypatch.setattr(configuration, "facts_of", functools.cache(lambda network, parts: facts_of(network, parts)))

    def error(self, check) -> bool:
        try:
            check()
        except DynvidError:
            return True
        return False

    def compare(self) -> None:
        said = self.manifest
        if said.source_sha256 != self.sha256:
            raise ConfigurationError("another training checkpoint")
        shift, options = said.network["shift"], said.network["options"]
        asked = (said.route_cells, shift["enabled"], shift["div"], said.grid.num_frames, said.weights)
        network = self.network(repr((*asked, options.get("stride_in_1x1"), options.get("dilated"))))
        parts = {p: tuple(self.split(network, p, said.fp32_only)) for p in said.precisions if p != "int8"}
        require_configuration(self.bundle, network, parts)

    def fate(self, content: dict[str, Any]) -> str:
        """Return who finds it, or ``passes``; anything but dynvid's own errors fails the test."""
        try:
            self.manifest = manifest_of({k: v for k, v in content.items() if k not in ("format", "version", "sha256")})
        except (DynvidError, StrictJsonError):  # of which the reader makes a ManifestError
            return "refused"
        self.bundle = Bundle(self.root, self.manifest, "")
        if self.structure(repr((self.manifest.subgraphs, self.manifest.opset))):
            return "verify"
        return "verify with the training checkpoint" if self.error(self.compare) else "passes"


def test_every_entry_dropped_swapped_or_changed_is_refused_or_found_or_harmless(
    content, tiny_bundle, checkpoint, monkeypatch
):
    verifier = Verifier(tiny_bundle.root, checkpoint, monkeypatch)
    assert verifier.fate(content) == "passes"
    fates: dict[str, int] = {}
    passed, used = [], set()
    for name, kind, made in changes(content):
        if made == content:
            continue
        found = verifier.fate(made)
        fates[found] = fates.get(found, 0) + 1
        if found == "passes":
            reasons = [pattern for pattern in HARMLESS if re.fullmatch(pattern, name)]
            used.update(reasons)
            passed += [] if reasons else [(name, kind)]
    assert passed == []
    assert fates["refused"] > 300 and fates["verify"] > 4 and fates["verify with the training checkpoint"] > 20
    assert used == set(HARMLESS)


# what was found by hand


def subgraph(content: dict[str, Any], name: str) -> dict[str, Any]:
    return next(part for part in content["subgraphs"] if part["name"] == name)


def swap_states(content: dict[str, Any]) -> None:
    """Pair the states of two layers of one block the wrong way round."""
    states = next(part["states"] for part in content["subgraphs"] if len(part["states"]) > 1)
    states[0]["output"], states[1]["output"] = states[1]["output"], states[0]["output"]


@pytest.fixture
def two_states(content) -> dict[str, Any]:
    """A manifest in which a block has two states of different shapes."""
    made = copy.deepcopy(content)
    block = subgraph(made, "block1")
    for variant in block["variants"].values():
        for way, ports in (("in", variant["inputs"]), ("out", variant["outputs"])):
            port = copy.deepcopy(ports[-1])
            port["shape"][2] += 1
            ports.append({**port, "name": f"state_{way}.1.other"})
    block["states"].append({"input": "state_in.1.other", "output": "state_out.1.other"})
    return made


def test_a_second_state_fits(two_states):
    assert len(read_manifest(resealed(two_states), "two").subgraph("block1").states) == 2


CONTRADICTIONS = {
    "two states paired wrongly": (swap_states, r"state state_in\.\S+ -> state_out\.\S+ reads float32 \[.*\] but writes float32 \["),
    "a head without its state": (lambda c: subgraph(c, "head1").update(states=[]), "head1: 0 states, expected one"),
    "a state twice": (lambda c: subgraph(c, "block1")["states"].append(subgraph(c, "block1")["states"][0]), "share a port"),
    "a state left out": (lambda c: subgraph(c, "block1")["states"].pop(), "block1: it reads .*, expected .* and its states"),
    "a cell that is a head": (lambda c: [row.__setitem__(1, "head1") for row in c["cells"]], "is not a subgraph of block 1"),
    "rows that differ": (lambda c: c["subgraphs"].append({**subgraph(c, "block1"), "name": "again"}), "no cell .* uses again"),
    "other frames": (lambda c: c["grid"].update(frames_per_set=4), "head0: it reads .*, expected"),
    "another crop": (lambda c: c["preprocessing"].update(crop=36), "block0: it reads .*, expected frames float32"),
    "more classes": (lambda c: c.update(classes=6, labels=None), "channels for 6 classes, but answer_macs"),
    "no shift": (lambda c: c["network"]["shift"].update(enabled=False), "the shift is off, but there are states"),
    "another stride": (lambda c: c["network"]["shift"].update(stride=2), "state state_in"),
    "other points": (lambda c: c["network"]["shift"].update(points=["x", "0.y"]), "shift points .* are not the states"),
    "a network without options": (lambda c: c["network"].pop("options"), "key 'options' is missing"),
    "rounding of other subgraphs": (lambda c: c["proof"]["rounding"]["tensors"].update(block9={"x": 1.0}), "no subgraph writes"),
    "rounding in words": (lambda c: c["proof"].update(rounding="small"), "expected dict"),
    "INT8 figures alone": (lambda c: c["proof"].update(int8={}), "there are no INT8 graphs"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_with_its_words(two_states, name):
    change, match = CONTRADICTIONS[name]
    change(two_states)
    with pytest.raises(ManifestError, match=match) as caught:
        read_manifest(resealed(two_states), "odd")
    assert caught.value.exit_code == 4


def give_state(content: dict[str, Any]) -> None:
    """Let a block hand itself a state."""
    block = subgraph(content, "block1")
    for variant in block["variants"].values():
        for way, ports in (("in", variant["inputs"]), ("out", variant["outputs"])):
            ports.append({"name": f"state_{way}.1.x", "dtype": "float32", "shape": ["batch", 1, 2, 8, 8]})
    block["states"].append({"input": "state_in.1.x", "output": "state_out.1.x"})


def free_frames(content: dict[str, Any]) -> None:
    """Let subgraphs take any number of frames."""
    for part in content["subgraphs"]:
        for variant in part["variants"].values():
            for port in (*variant["inputs"], *variant["outputs"]):
                port["shape"] = (
                    port["shape"][:1]
                    + ["frames" if size == 8 else size for size in port["shape"][1:2]]
                    + port["shape"][2:]
                )


OF_STATIC = {
    "no longer static": (lambda c: c.update(static=False), r"block0: it reads frames float32 \['batch', 8, .*'frames'"),
    "the key dropped": (lambda c: c.pop("static"), r"block0: it reads frames float32 \['batch', 8, .*'frames'"),
    "two checkpoints": (lambda c: c.update(route_cells=[[1, 2], [3, 2]], heads=["head2"] * 2), "static: it has 2 checkpoints"),
    "not all frames": (lambda c: c.update(route_cells=[[1, 2]]), "static: it does not see all frames"),
    "permuted": (lambda c: c["grid"].update(permutation="evil_odious"), "static: its permutation is 'evil_odious'"),
    "a state": (give_state, r"static: it has states state_in\.1\.x"),
    "any frames": (free_frames, r"block0: it reads frames float32 \['batch', 'frames', .*\['batch', 8, "),
    "fewer frames": (lambda c: c["grid"].update(frames_per_set=1), r"block0: it reads frames float32 \['batch', 8, .*\['batch', 4, "),
    "another width": (lambda c: c["costs"]["answer_macs"].__setitem__(2, 42), "head2: 8 channels for 5 classes, but answer_macs 42"),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_STATIC)
def test_a_contradiction_of_a_static_bundle_is_refused_with_its_words(exports, name):
    content = json.loads(exports.bundle(STATIC["TSM on msdnet"], ("fp32", "fp16")).manifest.to_bytes())
    change, match = OF_STATIC[name]
    change(content)
    with pytest.raises(ManifestError, match=match):
        read_manifest(resealed(content), "odd")


def written(bundle: Bundle, folder, change) -> Bundle:
    """Return a copy of ``bundle`` in ``folder`` with a changed manifest."""
    content = json.loads(bundle.manifest.to_bytes())
    change(content)
    folder.mkdir()
    for part in bundle.manifest.subgraphs:
        for variant in part.variants.values():
            (folder / variant.file).write_bytes(bundle.read(variant))
    (folder / "manifest.json").write_bytes(resealed(content))
    return Bundle.open(folder)


OF_THE_CHECKPOINT = {
    "preprocessing": (lambda c: c["preprocessing"].update(mean=[0.5, 0.5, 0.5]), r"preprocessing\.mean is \(0\.5, "),
    "short side": (lambda c: c["preprocessing"].update(short_side=48), r"preprocessing\.short_side is 48, .* says 40"),
    "labels": (lambda c: c.update(labels=c["labels"][::-1]), r"labels is \('e', 'd'"),
    "no labels": (lambda c: c.update(labels=None), "labels is None"),
    "costs": (lambda c: c["costs"]["block_macs"].__setitem__(0, 7), r"costs\.block_macs is \(7, "),
    "permutation": (lambda c: c["grid"].update(permutation="none"), r"grid\.permutation is 'none'"),
    "border": (lambda c: c["grid"].update(groups_linked=False), r"grid\.groups_linked is False"),
    "parameters": (lambda c: c.update(parameters=9), r"parameters is 9"),
    "head": (lambda c: c["network"]["head"].update(dropout=0.5), r"network\.head\.dropout is 0\.5"),
    "options": (lambda c: c["network"]["options"].update(channels=9), r"network\.options\.channels is 9"),
}


@pytest.mark.parametrize("name", OF_THE_CHECKPOINT)
def test_verify_compares_the_whole_configuration_with_the_training_checkpoint(exports, tiny_bundle, tmp_path, name):
    change, match = OF_THE_CHECKPOINT[name]
    changed = written(tiny_bundle, tmp_path / "b", change)
    verify_structure(changed)
    with pytest.raises(ConfigurationError, match=match) as caught:
        prove_again(changed, exports.training_checkpoint(TINY))
    assert caught.value.exit_code == 4
    assert "its training checkpoint says" in str(caught.value)


def test_labels_of_a_public_file_are_compared_with_those_that_it_was_exported_with(tiny_bundle, checkpoint):
    network = network_of(tiny_bundle.manifest, checkpoint)
    network.config = type(network.config)(**{**vars(network.config), "labels": None})
    parts = {"fp32": split(network, "fp32"), "fp16": split(network, "fp16", tiny_bundle.manifest.fp32_only)}
    with pytest.raises(ConfigurationError, match="labels is .* says None: give --labels with the file"):
        require_configuration(tiny_bundle, network, parts)


# without onnx


def rename_a_port(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    port = model.graph.output[-1].name
    for node in model.graph.node:
        node.output[:] = ["renamed" if name == port else name for name in node.output]
        node.input[:] = ["renamed" if name == port else name for name in node.input]
    model.graph.output[-1].name = "renamed"
    return model.SerializeToString()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_sees_ports_that_are_not_the_manifests(tiny_bundle, tmp_path, backend):
    check_ports(tiny_bundle, open_backend(backend))

    def narrower(content):  # the head's width, everywhere it is said
        for variant in subgraph(content, "head1")["variants"].values():
            for port in (*variant["inputs"], *variant["outputs"]):
                if port["name"].startswith("embeddings"):
                    port["shape"][-1] = 4
        content["costs"]["answer_macs"][1] = 20

    with pytest.raises(LintError, match="head1 fp(32|16) is not as its manifest says"):
        check_ports(written(tiny_bundle, tmp_path / "narrower", narrower), open_backend(backend))

    def other_file(content):
        variant = subgraph(content, "block1")["variants"]["fp32"]
        variant.update(sha256=sha256_of(path), bytes=path.stat().st_size)

    path = tmp_path / "block1.onnx"
    path.write_bytes(rename_a_port(tiny_bundle.read(tiny_bundle.manifest.subgraph("block1").variant("fp32"))))
    renamed = written(tiny_bundle, tmp_path / "renamed", other_file)
    (renamed.root / "block1.onnx").write_bytes(path.read_bytes())
    with pytest.raises(LintError, match="ports .*renamed.* are in its graph or in the manifest, but not in both"):
        check_ports(renamed, open_backend(backend))


def test_verify_without_onnx_checks_hashes_and_ports(tiny_bundle, tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else real(name))
    result = CliRunner().invoke(cli, ["verify", str(tiny_bundle.root)])
    assert result.exit_code == 0, result.output
    assert "checked hashes, and ports as onnxruntime sees them: install" in result.output


def test_labels_without_a_training_checkpoint_are_not_dropped(tiny_bundle, tmp_path):
    from dynvid.api import verify
    from dynvid.grid.errors import UsageError

    with pytest.raises(UsageError, match="are compared together with the training checkpoint: give that, too"):
        verify(tiny_bundle.root, labels=tmp_path / "labels.txt")


def test_opsets_are_compared(tiny_bundle, tmp_path):
    changed = written(tiny_bundle, tmp_path / "b", lambda c: c.update(opset=c["opset"] + 1))
    with pytest.raises(LintError, match=r"opset \[\d+\], expected \d+ as the manifest says"):
        verify_structure(changed)
