"""Damaged and foreign engine files: none reaches a deserialiser, and building again mends them."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections import Counter

import pytest
from engine_samples import KEY, WANTED, plan_of, put, resealed

from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.errors import DynvidError, EngineFileError, ResourceError, StaleEngineError, UntrustedEngineError

OTHER = dataclasses.replace(KEY, subgraph="block1")


class Files:
    """The files of an engine that a damage may touch, and those of a sound one beside it."""

    def __init__(self, folder):
        self.folder = folder
        self.plan, self.sidecar = folder / f"{KEY.name}.plan", folder / f"{KEY.name}.json"
        self.other_plan, self.other_sidecar = folder / f"{OTHER.name}.plan", folder / f"{OTHER.name}.json"


def forge(plan):
    """Return a damage that puts a foreign plan in place, with a sidecar that vouches for its size and sha256."""

    def damage(files, chance):
        import hashlib

        files.plan.write_bytes(plan)
        content = json.loads(files.sidecar.read_bytes())
        content.update(plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan))
        files.sidecar.write_bytes(resealed(content))

    return damage


def edit(change, version=(1, 0)):
    """Return a damage that changes a value of the sidecar and seals it again."""

    def damage(files, chance):
        content = json.loads(files.sidecar.read_bytes())
        change(content, chance)
        files.sidecar.write_bytes(resealed(content, version))

    return damage


def flip(name, least=0, most=None):
    def damage(files, chance):
        path = getattr(files, name)
        content = bytearray(path.read_bytes())
        content[chance.randrange(least, most or len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)

    return damage


def replace(name, make):
    def damage(files, chance):
        path = getattr(files, name)
        path.write_bytes(make(path.read_bytes(), chance))

    return damage


def instead(name, kind):
    """Return a damage that puts something that is no file in the place of one."""

    def damage(files, chance):
        path = getattr(files, name)
        kept = path.with_name(f"kept{chance.randrange(1000)}")
        path.rename(kept)
        if kind == "link":
            path.symlink_to(kept)
        elif kind == "dangling":
            path.symlink_to("nowhere")
        elif kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            assert kind == "missing"

    return damage


def mode(name, bits):
    def damage(files, chance):
        path = getattr(files, name)
        path.chmod(path.stat().st_mode | chance.choice(bits))

    return damage


ONNX = b"\x08\x0a\x12\x06dynvid" + bytes(200)
BOTH = ("plan", "sidecar")
DAMAGES = {
    **{f"{name}: a bit flipped": flip(name) for name in BOTH},
    **{f"{name}: truncated": replace(name, lambda b, chance: b[: chance.randrange(len(b))]) for name in BOTH},
    **{f"{name}: extended": replace(name, lambda b, chance: b + chance.randbytes(chance.randrange(1, 99))) for name in BOTH},
    **{f"{name}: empty": replace(name, lambda b, chance: b"") for name in BOTH},
    **{f"{name}: noise": replace(name, lambda b, chance: chance.randbytes(len(b))) for name in BOTH},
    **{f"{name}: text": replace(name, lambda b, chance: b"hello " * chance.randrange(1, 500)) for name in BOTH},
    **{f"{name}: {kind}": instead(name, kind)
       for name in BOTH for kind in ("link", "dangling", "folder", "fifo", "missing")},
    **{f"{name}: open to others": mode(name, (0o020, 0o002, 0o022)) for name in (*BOTH, "folder")},
    "plan: a bit of the header flipped": flip("plan", 0, 28),
    "plan: header zeroed": replace("plan", lambda b, chance: bytes(64) + b[64:]),
    "plan: header truncated": replace("plan", lambda b, chance: b[: chance.randrange(28)]),
    "plan: of the other flavour": replace("plan", lambda b, chance: b"ftrt" + b[4:]),
    "plan: of another version": replace("plan", lambda b, chance: b[:24] + chance.randbytes(3) + b[27:]),
    "plan: an ONNX model": replace("plan", lambda b, chance: ONNX),
    "plan: another engine's": lambda files, chance: shutil.copy(files.other_plan, files.plan),
    "plan: pages swapped": replace("plan", lambda b, chance: b[:28] + b[1000:] + b[28:1000]),
    "sidecar: another engine's": lambda files, chance: shutil.copy(files.other_sidecar, files.sidecar),
    "sidecar: a value changed under the old seal": replace("sidecar", lambda b, chance: b.replace(b"2048", b"2047")),
    "forged: vouches for the other flavour": forge(plan_of(tag=b"ftrt")),
    "forged: vouches for another version": forge(plan_of(version=(1, 7, 0, 116))),
    "forged: vouches for another length": forge(plan_of(says=2049)),
    "forged: vouches for an ONNX model": forge(ONNX),
    "forged: vouches for zeros": forge(bytes(2048)),
    "sidecar: another key": edit(lambda c, chance: c["key"].update(cuda=str(chance.randrange(1, 13)))),
    "sidecar: another subgraph": edit(lambda c, chance: c["key"].update(subgraph="block1")),
    "sidecar: a path": edit(lambda c, chance: c["key"].update(subgraph="../../etc/passwd")),
    "sidecar: an unknown key": edit(lambda c, chance: c.update(surprise=1)),
    "sidecar: a key missing": edit(lambda c, chance: c.pop(chance.choice(["key", "plan_sha256", "built", "seconds"]))),
    "sidecar: a value of another type": edit(lambda c, chance: c.update(plan_bytes=chance.choice(["2048", 2048.0, None]))),
    "sidecar: of a later version": edit(lambda c, chance: None, (2, 0)),
}  # fmt: skip
CASES_EACH = 12


@pytest.fixture
def sound(tmp_path):
    cache = EngineCache(tmp_path / "sound.engines")
    put(cache, payload=bytes(range(256)))
    put(cache, OTHER, payload=b"other")
    return cache


def load_engine(cache, wanted, deserialise):
    """Load an engine as a runtime does."""
    return deserialise(cache.read(cache.find(wanted)))


def test_no_damaged_or_foreign_file_reaches_the_deserialiser(sound, tmp_path):
    deserialised, refused = [], Counter()
    for case in range(CASES_EACH * len(DAMAGES)):
        name, damage = list(DAMAGES.items())[case % len(DAMAGES)]
        cache = EngineCache(shutil.copytree(sound.folder, tmp_path / f"{case}.engines"))
        damage(Files(cache.folder), random.Random(case))
        with pytest.raises(DynvidError) as caught:
            load_engine(cache, WANTED, deserialised.append)
        text = str(caught.value)
        assert caught.value.exit_code == 4 and "\n" not in text, name
        assert f"Run 'dynvid build-engines {cache.bundle} " in text or f"Run 'chmod go-w {cache.folder}" in text, name
        refused[type(caught.value)] += 1
        shutil.rmtree(cache.folder)
    assert deserialised == []
    assert refused.total() >= 500
    assert set(refused) == {EngineFileError, UntrustedEngineError, StaleEngineError}
    load_engine(sound, WANTED, deserialised.append)
    assert deserialised == [plan_of(bytes(range(256)))], "what is sound is loaded"


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_built_again_and_the_others_stay(sound, name):
    DAMAGES[name](Files(sound.folder), random.Random(1))
    if name == "folder: open to others":
        for refuse in (sound.engines, lambda: sound.has(KEY), lambda: put(sound)):
            with pytest.raises(UntrustedEngineError, match=r"mode 07[0-7]+\), .* Run 'chmod go-w .*sound.engines' if"):
                refuse()
        return
    assert sound.has(KEY) is None
    assert OTHER in [engine.key for engine in sound.engines().engines]
    if name.startswith("sidecar") and "missing" not in name:
        assert f"{KEY.name}.json" in sound.engines().damaged
    if "folder" in name:
        with pytest.raises(ResourceError, match="could not be written"):
            put(sound)
        return
    again = put(sound, payload=b"again")
    assert sound.find(WANTED) == again
    assert sound.read(again) == plan_of(b"again")
    assert sound.has(OTHER)


@pytest.mark.parametrize(
    ("plan", "fault"),
    [(plan_of(tag=b"ftrt"), "a plan of tensorrt,"), (plan_of()[:-1], "header says"), (ONNX, "begins with")],
)
def test_a_plan_that_would_be_refused_is_not_written(sound, plan, fault):
    key = dataclasses.replace(KEY, subgraph="block2")
    with pytest.raises(EngineFileError, match=f"plan of block2 in fp16 is not kept: .*{fault}"):
        sound.write(key, plan, 0.5, {})
    assert len(sound.engines().engines) == 2


def test_an_engine_that_is_not_in_the_ledger_is_refused(sound):
    engine = sound.find(WANTED)
    for forged in (
        dataclasses.replace(engine, plan_sha256=hashlib.sha256(b"").hexdigest()),
        dataclasses.replace(engine, built="2020-01-01T00:00:00Z"),
    ):
        with pytest.raises(EngineFileError, match="is no longer the one in the ledger"):
            sound.read(forged)
    with pytest.raises(EngineFileError, match="cannot be read"):
        sound.read(dataclasses.replace(engine, key=dataclasses.replace(KEY, cuda="12")))


def test_a_sidecar_of_a_newer_minor_version_may_hold_unknown_keys(sound):
    path = Files(sound.folder).sidecar
    engine = sound.find(WANTED)
    content = json.loads(path.read_bytes())
    content.update(surprise=1)
    path.write_bytes(resealed(content, (1, 1)))
    assert sound.read(sound.find(WANTED)) == sound.read(engine)


@pytest.mark.parametrize("file", ["folder", "text"])
def test_a_folder_that_cannot_be_read_is_refused(tmp_path, file):
    path = tmp_path / "k400.engines"
    path.write_text("hello")
    cache = EngineCache(path / "deeper" if file == "folder" else path)
    with pytest.raises(DynvidError):
        cache.find(WANTED)
    with pytest.raises(DynvidError):
        put(cache)
