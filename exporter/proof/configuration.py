"""Compare everything that a bundle says of its network with the network of its training checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from ...grid.bundle import Bundle
from ...grid.errors import ConfigurationError
from ...grid.manifest import Stored
from ...models.network import VideoNetwork
from ..split.bundle_builder import facts_of
from ..split.subgraphs import SubgraphModule


def require_configuration(
    bundle: Bundle, network: VideoNetwork, parts: Mapping[Stored, Sequence[SubgraphModule]]
) -> None:
    """Check that the manifest says what an export of ``network`` would write: all but measured figures and hashes.

    Args:
        bundle: as it was read.
        network: of its training checkpoint, with the bundle's route and frames.
        parts: the network's subgraphs in every precision of the bundle but int8, whose ports are those of fp32.

    Raises:
        ConfigurationError: With the first entry that differs.
    """
    manifest, facts = bundle.manifest, facts_of(network, parts["fp32"])
    expected: dict[str, Any] = dict(facts)
    said: dict[str, Any] = {name: getattr(manifest, name) for name in facts}
    for precision, made in parts.items():
        expected[f"subgraphs ({precision})"] = {
            part.name: (part.kind, part.block, part.states, part.inputs, part.outputs) for part in made
        }
        said[f"subgraphs ({precision})"] = {
            s.name: (s.kind, s.block, s.states, s.variants[precision].inputs, s.variants[precision].outputs)
            for s in manifest.subgraphs
        }
    for place, has, needs in _differences("", said, expected):
        advice = "export again"
        if place == "labels" and network.config.labels is None:
            advice = "give --labels with the file that it was exported with, or export again"
        raise ConfigurationError(
            f"bundle {str(bundle.root)!r}: {place} is {_short(has)}, but its training checkpoint says {_short(needs)}: "
            f"{advice}"
        )
    if "int8" in manifest.precisions and "int8" not in manifest.proof:
        raise ConfigurationError(f"bundle {str(bundle.root)!r}: its INT8 set has no proof: run 'dynvid quantize' again")


def _differences(place: str, said: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    said, expected = (asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for v in (said, expected))
    if isinstance(said, Mapping) and isinstance(expected, Mapping):
        for key in (*expected, *(key for key in said if key not in expected)):
            yield from _differences(f"{place}.{key}" if place else key, said.get(key), expected.get(key))
    elif said != expected:
        yield place, said, expected


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"
