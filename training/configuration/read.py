"""A configuration: defaults, then a preset, then a TOML file, then changes from the command line."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...grid.errors import UsageError
from ...grid.storage.strict_json import StrictJsonError, parse
from ...models.config_json import Configuration as NetworkTable
from .recipe import Recipe
from .tables import Data, Run

_TABLES: dict[str, type[Any]] = {"network": NetworkTable, "data": Data, "recipe": Recipe, "run": Run}
_PATHS = {"data": ("folder", "train", "validation", "classes"), "recipe": ("initial",)}
_PRESETS = files(__package__) / "presets"
PRESETS = tuple(sorted(entry.name.removesuffix(".toml") for entry in _PRESETS.iterdir()))
"""The data sets for which the paper has a recipe."""


@dataclass(frozen=True)
class Configuration:
    """What to train, on what, and how; paths are absolute.

    Attributes:
        network: table as ``models.config_json`` reads it, but for the classes, which the data say.
    """

    network: dict[str, Any]
    data: Data
    recipe: Recipe
    run: Run

    def toml(self) -> str:
        """Return the configuration as a file that gives the same again."""
        tables = {"network": self.network, **{name: asdict(getattr(self, name)) for name in ("data", "recipe", "run")}}
        lines = []
        for name, table in tables.items():
            lines += [
                f"[{name}]",
                *(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None),
                "",
            ]
        return "\n".join(lines)


def read_configuration(path: Path, changes: Sequence[str] = ()) -> Configuration:
    """Return the configuration of a TOML file.

    Args:
        path: with the tables ``[network]``, ``[data]``, ``[recipe]`` and ``[run]``, of which the first two are needed.
            ``recipe.preset`` names the preset that it begins with.
        changes: such as ``recipe.batch=64``, with a value in TOML; paths are relative to the working folder.

    Raises:
        UsageError: If the file cannot be read, a key is unknown or missing, or a value does not fit.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"training configuration '{path}': {error.strerror}. Expected a file in TOML.") from None
    except ValueError as error:
        raise UsageError(f"training configuration '{path}' is not TOML in UTF-8: {error}. Correct it.") from None
    where = f"training configuration '{path}'"
    _require_known(tables, where)
    _make_absolute(tables, path.absolute().parent)
    for change in changes:
        _merge(tables, _changed(change))
    recipe = tables.get("recipe", {})
    if (preset := recipe.get("preset")) is not None:
        tables["recipe"] = {**_preset(preset), **recipe}
    if "network" not in tables:
        raise UsageError(f'{where} has no [network]: expected one, such as network = "resnet50" in it')
    return Configuration(
        network=tables["network"],
        data=_table(Data, tables.get("data", {}), where),
        recipe=_table(Recipe, tables.get("recipe", {}), where),
        run=_table(Run, tables.get("run", {}), where),
    )


def _require_known(tables: Mapping[str, Any], where: str) -> None:
    """Check the names of tables and keys."""
    for name, table in tables.items():
        if name in _TABLES and not isinstance(table, dict):
            raise UsageError(f"{where} has {name!r} as a value or a list: expected one table [{name}]")
        if name not in _TABLES:
            kind = "table" if isinstance(table, dict) else "key outside the tables"
            raise UsageError(f"{where} has the {kind} {name!r}: expected {_listed(_TABLES)}{_near(name, _TABLES)}")
        known = [field.name for field in fields(_TABLES[name])]
        for key in table:
            if key not in known:
                near = _near(key, known, f"{name}.")
                raise UsageError(f"{where} has the unknown key {name}.{key}: expected one of {', '.join(known)}{near}")


def _changed(change: str) -> dict[str, dict[str, Any]]:
    """Return the tables of one change."""
    place, equals, text = change.partition("=")
    name, dot, key = place.strip().partition(".")
    if not (equals and dot and name and key) or "\n" in change:
        raise UsageError(f"--set {change!r}: expected TABLE.KEY=VALUE, such as recipe.batch=64")
    try:
        tables = tomllib.loads(f"[{name}]\n{key} = {text}")
    except tomllib.TOMLDecodeError as error:
        if not re.fullmatch(r"\s*[^\s\"'\[\]{}=,]+\s*", text):
            raise UsageError(f"--set {change!r}: {error}. Expected a value in TOML.") from None
        tables = {name: {key: text.strip()}}  # a word needs no quotes
    _require_known(tables, f"--set {change!r}")
    _make_absolute(tables, Path.cwd())
    return tables


def _merge(tables: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Put ``more`` over ``tables``, key by key down to the last."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(tables.get(key), dict):
            _merge(tables[key], value)
        else:
            tables[key] = value


def _make_absolute(tables: Mapping[str, Any], folder: Path) -> None:
    for name, keys in _PATHS.items():
        for key in keys:
            if isinstance(value := tables.get(name, {}).get(key), str):
                tables[name][key] = str(folder / value)


def _preset(name: Any) -> dict[str, Any]:
    if name not in PRESETS:
        raise UsageError(f"recipe.preset {name!r}: expected one of {', '.join(PRESETS)}{_near(str(name), PRESETS)}")
    return tomllib.loads((_PRESETS / f"{name}.toml").read_text(encoding="utf-8"))


def _table(kind: type[Any], table: Mapping[str, Any], where: str) -> Any:
    try:
        return parse(kind, dict(table))
    except StrictJsonError as error:
        place, _, problem = str(error).partition(": ")
        raise UsageError(f"{where}: {place}: {problem}") from None


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"[{name}]" for name in names)


def _near(name: str, known: Sequence[str] | Mapping[str, Any], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f". Did you mean {prefix}{near[0]}?" if near else ""


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items() if inner is not None) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
