"""Dataclasses as JSON files that a person can read and edit, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
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


def from_plain(kind: Any, value: Any) -> Any:
    """The inverse of ``to_plain`` for the annotated types of the dataclasses in this module."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        missing = [
            f.name
            for f in dataclasses.fields(kind)
            if f.name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if unknown or missing:
            raise PlanError(
                f"{kind.__name__}: expected entries {sorted(hints)}, received unknown {unknown}, missing {missing}."
            )
        return kind(**{name: from_plain(hints[name], item) for name, item in value.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and value is not None:
        return tuple(from_plain(arguments[0], item) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {name: from_plain(arguments[1], item) for name, item in value.items()}
    if origin is not None and type(None) in arguments:  # X | None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else from_plain(inner, value)
    return value


def save_json(path: str | os.PathLike, value: Any) -> None:
    """Write a dataclass or plain value as JSON beside ``path``, then rename: a killed run leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(to_plain(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def load_json(path: str | os.PathLike, kind: Any) -> Any:
    """Read a file that ``save_json`` wrote.

    Raises:
        PlanError: missing or unreadable file, or entries that do not fit ``kind``.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(
            f"expected the file {path}, which does not exist. Plan the data set first: python -m preprocessing DATASET."
        ) from None
    except json.JSONDecodeError as error:
        raise PlanError(f"{path} is not valid JSON: {error}.") from None
    try:
        return from_plain(kind, content)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    except (TypeError, AttributeError) as error:
        raise PlanError(f"{path}: an entry has the wrong type ({error}).") from None
