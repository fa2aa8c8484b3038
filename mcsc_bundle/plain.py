"""Dataclasses as the plain values that JSON holds, and back: every entry is checked against its annotated type."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints


class PlanError(ValueError):
    """A plan that cannot be carried out; the message says which entry, why, and what would be possible."""


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy scalars as what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def differences(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The smallest entries in which two plain values differ: ``spacing_mm[1]``, the old value and the new one.

    The order of names in a mapping counts: that of the labels is that of the network's channels.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping) and list(old) == list(new):
        for key in old:
            yield from differences(f"{name}.{key}", old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(f"{name}[{index}]", one, other)
    elif old != new or isinstance(old, Mapping):
        yield name, old, new


def from_plain(kind: Any, value: Any) -> Any:
    """The inverse of ``to_plain``.

    A whole number may be written as a fraction (``96.0``) and a fraction as a whole number; nothing else is converted.

    Args:
        kind: a dataclass, annotated with numbers, texts, booleans, tuples and mappings of those, dataclasses, ``X | None``.
        value: from JSON.

    Raises:
        PlanError: an unknown or missing entry, or one of another type; or what the dataclass itself refuses.
    """
    return _convert(kind, value, kind.__name__.lower(), "")


def _convert(kind: Any, value: Any, file: str, entry: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, file, entry)
    origin, arguments = get_origin(kind), get_args(kind)
    if type(None) in arguments:  # X | None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(inner, value, file, entry)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _refused(file, entry, "a list", value)
        return tuple(_convert(arguments[0], item, file, f"{entry}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _refused(file, entry, "names with values, {...}", value)
        return {str(key): _convert(arguments[1], item, file, f"{entry}.{key}") for key, item in value.items()}
    return _leaf(kind, value, file, entry)


def _leaf(kind: Any, value: Any, file: str, entry: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        if not number or value != value or value in (float("inf"), float("-inf")) or int(value) != value:
            raise _refused(file, entry, "a whole number", value)
        return int(value)
    expected = {float: "a number", str: "a text", bool: "true or false"}.get(kind)
    if expected is not None and not (number if kind is float else isinstance(value, kind)):
        raise _refused(file, entry, expected, value)
    return value


def _dataclass(kind: type, value: Any, file: str, entry: str) -> Any:
    if not isinstance(value, Mapping):
        raise _refused(file, entry, "named entries, {...}", value)
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if unknown or missing:
        near = [_nearest(name, set(hints) - set(value)) for name in unknown]
        expected = "entries by their names" if near and all(near) else f"the entries {sorted(hints)}"
        named = [f"unknown {name!r}{hint}" for name, hint in zip(unknown, near, strict=True)]
        named += [f"no {name!r}" for name in missing]
        raise PlanError(f"{_place(file, entry)}: expected {expected}, received {', '.join(named)}.")
    prefix = f"{entry}." if entry else ""
    return kind(**{name: _convert(hints[name], item, file, prefix + name) for name, item in value.items()})


def _nearest(name: str, possible: set[str]) -> str:
    close = get_close_matches(name, sorted(possible), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _refused(file: str, entry: str, expected: str, value: Any) -> PlanError:
    text = repr(value)
    received = text if len(text) <= 80 else f"{text[:77]}..."
    return PlanError(f"{_place(file, entry)}: expected {expected}, received {received}.")


def _place(file: str, entry: str) -> str:
    return f"{file} entry '{entry}'" if entry else file


def in_order(value: Any) -> Any:
    """A mapping as the list of its entries, for comparing: labels and regions mean channels by their order."""
    return list(value.items()) if isinstance(value, dict) else value
