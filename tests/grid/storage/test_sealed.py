"""Sealed JSON: what was sealed opens, and nothing else does."""

import pytest

from dynvid.grid.storage.sealed import SealError, VersionError, seal, unseal
from dynvid.grid.storage.strict_json import StrictJsonError, dumps, loads

CONTENT = {"name": "block0", "sizes": [1, 2, 3], "nested": {"a": None}}


@pytest.mark.parametrize(("minor", "newer"), [(0, False), (2, False), (3, True)])
def test_what_was_sealed_opens_and_says_whether_it_is_newer(minor, newer):
    assert unseal(seal(CONTENT, "a.format", (1, minor)), "a.format", (1, 2)) == (CONTENT, newer)


def test_no_byte_may_change():
    text = seal(CONTENT, "a.format", (1, 0))
    for position in range(len(text)):
        changed = bytearray(text)
        changed[position] ^= 1
        with pytest.raises(StrictJsonError):
            unseal(bytes(changed), "a.format", (1, 0))


def test_a_value_changed_under_the_old_seal_is_told():
    content = loads(seal(CONTENT, "a.format", (1, 0)))
    with pytest.raises(SealError, match="has changed since it was written"):
        unseal(dumps({**content, "name": "block1"}), "a.format", (1, 0))


def test_another_major_version_is_told():
    with pytest.raises(VersionError, match=r"version 2\.1, but this dynvid reads 1\.x"):
        unseal(seal(CONTENT, "a.format", (2, 1)), "a.format", (1, 0))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"{", b"\xff", seal(CONTENT, "b.format", (1, 0))])
def test_another_format_is_refused(text):
    with pytest.raises(StrictJsonError):
        unseal(text, "a.format", (1, 0))


@pytest.mark.parametrize("version", [None, "1.0", [1], [1, 0, 0], [True, 0], [1.0, 0]])
def test_a_version_is_two_numbers(version):
    text = dumps({"format": "a.format", "version": version})
    with pytest.raises(StrictJsonError, match="expected two numbers"):
        unseal(text, "a.format", (1, 0))
