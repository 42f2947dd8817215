"""JSON read strictly into dataclasses: known keys only, declared types only, no duplicates."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_MAX_BYTES = 64 * 2**20


class StrictJsonError(ValueError):
    """Text is not the expected JSON; the message says where."""


def loads(text: bytes) -> Any:
    """Return the value of UTF-8 JSON ``text``.

    Raises:
        StrictJsonError: If it is not strict JSON: duplicate keys, NaN, wrong encoding, or too deep or too large.
    """
    if len(text) > _MAX_BYTES:
        raise StrictJsonError(f"{len(text)} bytes, expected at most {_MAX_BYTES}")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise StrictJsonError("nested too deeply") from None
    except ValueError as error:
        raise StrictJsonError(str(error)) from None


def dumps(value: Any) -> bytes:
    """Return ``value`` as canonical JSON: sorted keys, one space of indentation, and a final newline."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def parse(kind: type[T], value: Any, *, ignore_unknown: bool = False) -> T:
    """Return ``value``, as ``loads`` gives it, as an instance of the dataclass ``kind``.

    Raises:
        StrictJsonError: With the place and what was expected there.
    """
    return _parse(kind, value, kind.__name__.lower(), ignore_unknown)  # type: ignore[no-any-return]


def _parse(kind: Any, value: Any, place: str, lax: bool) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, value, place, lax)
    if origin is tuple:
        items = _require(value, list, place)
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(items):
            raise StrictJsonError(f"{place}: {len(items)} values, expected {len(kinds)}")
        return tuple(_parse(k, v, f"{place}[{i}]", lax) for i, (k, v) in enumerate(zip(kinds, items, strict=True)))
    if origin is dict:
        items = _require(value, dict, place)
        return {key: _parse(arguments[1], v, f"{place}.{key}", lax) for key, v in items.items()}
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise StrictJsonError(f"{place}: {value!r}, expected one of {arguments}")
        return value
    if origin in (Union, types.UnionType):
        problems = []
        for option in arguments:
            try:
                return _parse(option, value, place, lax)
            except StrictJsonError as error:
                problems.append(str(error))
        raise StrictJsonError(problems[0])
    if kind is type(None):
        if value is not None:
            raise StrictJsonError(f"{place}: {value!r}, expected null")
        return None
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise StrictJsonError(f"{place}: the number is too large for a float") from None
    return _require(value, kind, place)


def _parse_dataclass(kind: Any, value: Any, place: str, lax: bool) -> Any:
    items = _require(value, dict, place)
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(items) - set(fields))
    if unknown and not lax:
        raise StrictJsonError(f"{place}: unknown key {unknown[0]!r}")
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in items and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    if missing:
        raise StrictJsonError(f"{place}: key {missing[0]!r} is missing")
    return kind(**{k: _parse(hints[k], v, f"{place}.{k}", lax) for k, v in items.items() if k in fields})


def _require(value: Any, kind: type, place: str) -> Any:
    if type(value) is not kind:  # a bool is not an int here
        raise StrictJsonError(f"{place}: {str(value)[:60]!r}, expected {kind.__name__}")
    if type(value) is float and not math.isfinite(value):
        raise StrictJsonError(f"{place}: {value}, expected a finite number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")
