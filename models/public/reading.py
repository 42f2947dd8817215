"""What a public layout says: a configuration, and the file's name for each of dynvid's keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ...grid.errors import LayoutError
from .file_keys import FileKeys

Reading = tuple[dict[str, Any], Callable[[str], str]]
"""A configuration as ``from_json`` reads it; maps one of dynvid's keys to the layout's name for it."""


def classes_of(keys: FileKeys, linears: Sequence[str]) -> int:
    """Return the number of rows of the linear layers; any number without them: their keys will be found missing."""
    tensors, wanted = keys.tensors, [f"{linear}{leaf}" for linear in linears for leaf in ("weight", "bias")]
    rows = {keys.name(key): len(tensors[key]) for key in wanted if key in tensors and tensors[key].ndim}
    ranking = Counter(rows.values()).most_common(2) or [(2, 1)]
    if len(ranking) == 2 and ranking[0][1] == ranking[1][1]:
        raise LayoutError(f"misshapen linear layer: its rows differ, {rows}")
    return ranking[0][0]
