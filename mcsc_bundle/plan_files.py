"""Dataclasses as JSON files that a person can read and edit, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcsc_bundle.files import save_text
from mcsc_bundle.plain import PlanError, from_plain, to_plain

__all__ = ["PlanError", "folds_of", "from_plain", "load_json", "read_json", "save_json", "to_plain"]

KEPT = {
    "plan.json": " planned.json beside it is the plan before edits.",
    "splits.json": " Each fold of a cross-validation has a copy.",
    "cross_validation.json": " Or delete it and repeat the cross-validation, which scores that fold again.",
}


def save_json(path: str | os.PathLike, value: Any) -> None:
    """Write a dataclass or plain value as JSON, see ``mcsc_bundle.files``."""
    save_text(path, json.dumps(to_plain(value), indent=1, ensure_ascii=False) + "\n")


def load_json(path: str | os.PathLike, kind: Any) -> Any:
    """Read a file that ``save_json`` wrote.

    Raises:
        PlanError: missing or unreadable file, or entries that do not fit ``kind``.
    """
    content = read_json(path)
    try:
        return from_plain(kind, content)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def read_json(
    path: str | os.PathLike, default: dict[str, Any] | None = None, needs: Sequence[str] = ()
) -> dict[str, Any]:
    """Content of a JSON file with named entries.

    Args:
        path: of the file.
        default: what a file that does not exist stands for; ``None``: it must exist.
        needs: entries that it must have.

    Raises:
        PlanError: missing or unreadable file, or one without these entries.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a mark
    except FileNotFoundError:
        if default is not None:
            return default
        raise PlanError(f"expected the file {path}, which does not exist. {_remedy(path)}") from None
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}). Check the file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not valid JSON: {error}. Mend it.{KEPT.get(path.name, '')}") from None
    if not isinstance(content, dict) or not set(needs) <= set(content):
        expected = f"the entries {', '.join(needs)}" if needs else "named entries, {...}"
        raise PlanError(
            f"{path}: expected {expected}, received {repr(content)[:80]}. Mend it.{KEPT.get(path.name, '')}"
        )
    return content


def folds_of(run: Path) -> list[dict[str, list[str]]]:
    """The folds in ``splits.json`` of a run or a cross-validation: names of cases under ``train`` and ``val``.

    Raises:
        PlanError: see ``read_json``.
    """
    return read_json(run / "splits.json", needs=("folds",))["folds"]


def _remedy(path: Path) -> str:
    """Which folder was probably meant, or how the file comes to be."""
    below = sorted(other.parent.name for other in path.parent.glob(f"*/{path.name}"))
    if below:
        return f"The folder holds several runs, give one of them: {', '.join(below)}."
    if path.name == "plan.json" and (path.parent / "models" / "trained.json").exists():
        return "Put it back: models/trained.json holds the plan of the weights, planned.json the one before edits."
    if path.parent.name == "configs":
        return "Get the bundle again, or pack the run again."
    return "Plan the data set first: python -m preprocessing DATASET."
