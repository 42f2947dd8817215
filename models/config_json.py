"""A network's configuration as JSON, as stored in a native training checkpoint and in a training recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..grid.errors import NetworkError, UsageError
from ..grid.preprocessing import Preprocessing
from ..grid.route import Route, parse_route, preset, require_heads
from ..grid.storage.strict_json import StrictJsonError, parse
from ..grid.topology import Cell, Grid, Permutation
from .network import HeadConfig, NetworkConfig
from .registry import build_backbone
from .shift import ShiftConfig


@dataclass(frozen=True)
class Configuration:
    """A network and its grid, as training checkpoints and the table ``[network]`` of a training configuration have it.

    Attributes:
        network: a registered name, such as ``msdnet38``, ``resnet50`` or ``resnet``; ``options`` are its own.
        classes: their number, and ``labels`` their names; training takes both from the data.
        input_sets: N; a video is so many sets of ``frames_per_set`` frames.
        permutation: order of the sets: ``evil_odious`` (paper, equation 4), or ``none``; by default ``none`` if static.
        groups_linked: whether the shift crosses from the evil sets into the odious ones.
        route: a preset, or cells as text or pairs; by default ``joint`` where it fits, else ``depth``, or ``input``.
        heads: blocks with a head; by default those that have a checkpoint.
        shift: as ``ShiftConfig``; ``head``: as ``HeadConfig``; ``preprocessing``: as ``Preprocessing``.
        static: whether it is a fixed network with one answer after all frames: TSM, or TSN without shift.
    """

    network: str
    classes: int
    options: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    input_sets: int = 8
    frames_per_set: int = 2
    permutation: Permutation | None = None
    groups_linked: bool = True
    route: str | tuple[tuple[int, int], ...] | None = None
    heads: tuple[int, ...] | None = None
    shift: ShiftConfig = field(default_factory=ShiftConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    static: bool = False


def to_json(config: NetworkConfig) -> dict[str, Any]:
    """Return ``config`` as plain JSON types; ``from_json`` reverses it."""
    table = {
        "network": config.network,
        "options": config.options,
        "classes": config.classes,
        "labels": config.labels,
        "input_sets": config.grid.input_sets,
        "frames_per_set": config.grid.frames_per_set,
        "permutation": config.grid.permutation,
        "groups_linked": config.grid.groups_linked,
        "route": config.route,
        "heads": config.heads,
        "shift": asdict(config.shift),
        "head": asdict(config.head),
        "preprocessing": asdict(config.preprocessing),
        "static": config.static,
    }
    plain: dict[str, Any] = json.loads(json.dumps(table))  # tuples become lists
    return plain


def from_json(data: Mapping[str, Any]) -> NetworkConfig:
    """Return the configuration in ``data``. Only ``network`` and ``classes`` are required; the rest has defaults.

    ``route`` is a list of cells, or text as for ``--route``. ``heads`` defaults to the blocks that have checkpoints.
    ``static`` makes a fixed network, with route ``full`` and permutation ``none``: TSM, or TSN if the shift is off.

    Raises:
        NetworkError: If a key is unknown or missing, or a value does not fit.
        RouteError: If the route does not fit.
    """
    try:
        table = parse(Configuration, dict(data))
    except StrictJsonError as error:
        raise NetworkError(f"network configuration does not fit: {error}") from None
    backbone = build_backbone(table.network, table.options)
    strange = sorted(set(table.heads or ()) - set(backbone.head_blocks))
    if strange:
        raise NetworkError(
            f"network {table.network!r} allows no head on block {strange[0]}; expected some of {backbone.head_blocks}"
        )
    permutation = table.permutation or ("none" if table.static else "evil_odious")
    grid = Grid(table.input_sets, len(backbone.blocks), table.frames_per_set, permutation, table.groups_linked)
    asked = "full" if table.static and table.route is None else table.route
    route = read_route(asked, grid, table.heads or backbone.head_blocks)
    return NetworkConfig(
        network=table.network,
        classes=table.classes,
        grid=grid,
        route=route.cells,
        heads=table.heads or route.head_blocks,
        options=table.options,
        shift=table.shift,
        head=table.head,
        preprocessing=table.preprocessing,
        labels=table.labels,
        static=table.static,
    )


def read_route(value: Any, grid: Grid, head_blocks: tuple[int, ...]) -> Route:
    """Return a route from cells or text; by default ``joint`` if it fits, else ``depth``, or ``input`` for one head."""
    if value is None:
        try:
            return preset("joint", grid, head_blocks)
        except UsageError:
            return preset("input" if len(head_blocks) == 1 else "depth", grid, head_blocks)
    if isinstance(value, str):
        return parse_route(value, grid, head_blocks)
    return require_heads(Route(grid, tuple(Cell(int(n), int(m)) for n, m in value)), head_blocks)
