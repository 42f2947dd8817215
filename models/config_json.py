"""A network's configuration as JSON: what a native training checkpoint and a training recipe hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..grid.errors import NetworkError, UsageError
from ..grid.preprocessing import Preprocessing
from ..grid.route import Route, parse_route, preset, require_heads
from ..grid.topology import Cell, Grid
from .network import HeadConfig, NetworkConfig
from .registry import build_backbone
from .shift import ShiftConfig

_KEYS = {
    "network", "options", "classes", "labels", "input_sets", "frames_per_set", "permutation",
    "groups_linked", "route", "heads", "shift", "head", "preprocessing",
}  # fmt: skip


def to_json(config: NetworkConfig) -> dict[str, Any]:
    """Return ``config`` in plain JSON types; ``from_json`` gives it back."""
    return {
        "network": config.network,
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in config.options.items()},
        "classes": config.classes,
        "labels": None if config.labels is None else list(config.labels),
        "input_sets": config.grid.input_sets,
        "frames_per_set": config.grid.frames_per_set,
        "permutation": config.grid.permutation,
        "groups_linked": config.grid.groups_linked,
        "route": [list(cell) for cell in config.route],
        "heads": list(config.heads),
        "shift": asdict(config.shift),
        "head": asdict(config.head),
        "preprocessing": asdict(config.preprocessing),
    }


def from_json(data: Mapping[str, Any]) -> NetworkConfig:
    """Return the configuration that ``data`` holds; ``network`` and ``classes`` suffice, the rest has defaults.

    ``route`` is a list of cells, or text as ``--route`` takes it. ``heads`` defaults to the blocks on which the
    route's checkpoints lie.

    Raises:
        NetworkError: If a key is unknown or missing, or a value does not fit.
        RouteError: If the route does not fit.
    """
    unknown = set(data) - _KEYS
    missing = {"network", "classes"} - set(data)
    if unknown or missing:
        raise NetworkError(
            f"network configuration with unknown keys {sorted(unknown)} and missing keys {sorted(missing)}: "
            f"expected {', '.join(sorted(_KEYS))}"
        )
    try:
        options = dict(data.get("options", {}))
        backbone = build_backbone(data["network"], options)
        grid = Grid(
            int(data.get("input_sets", 8)),
            len(backbone.blocks),
            int(data.get("frames_per_set", 2)),
            data.get("permutation", "evil_odious"),
            bool(data.get("groups_linked", True)),
        )
        heads = data.get("heads")
        route = read_route(data.get("route"), grid, tuple(heads or backbone.head_blocks))
        shift = dict(data.get("shift", {}))
        if shift.get("points") is not None:
            shift["points"] = tuple(shift["points"])
        preprocessing = dict(data.get("preprocessing", {}))
        for key in ("mean", "std"):
            if key in preprocessing:
                preprocessing[key] = tuple(preprocessing[key])
        labels = data.get("labels")
        return NetworkConfig(
            network=data["network"],
            classes=int(data["classes"]),
            grid=grid,
            route=route.cells,
            heads=tuple(heads) if heads else route.head_blocks,
            options=options,
            shift=ShiftConfig(**shift),
            head=HeadConfig(**data.get("head", {})),
            preprocessing=Preprocessing(**preprocessing),
            labels=None if labels is None else tuple(labels),
        )
    except (TypeError, ValueError) as error:
        raise NetworkError(f"network configuration does not fit: {error}") from None


def read_route(value: Any, grid: Grid, head_blocks: tuple[int, ...]) -> Route:
    """Return a route from cells, from text, or by default: ``joint`` where it fits, else ``input``."""
    if value is None:
        try:
            return preset("joint", grid, head_blocks)
        except UsageError:
            return preset("input" if len(head_blocks) == 1 else "depth", grid, head_blocks)
    if isinstance(value, str):
        return parse_route(value, grid, head_blocks)
    return require_heads(Route(grid, tuple(Cell(int(n), int(m)) for n, m in value)), head_blocks)
