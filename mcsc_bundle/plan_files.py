"""Dataclasses as JSON files that a person can read and edit, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mcsc_bundle.files import save_text
from mcsc_bundle.plain import PlanError, from_plain, to_plain

__all__ = ["PlanError", "from_plain", "load_json", "save_json", "to_plain"]


def save_json(path: str | os.PathLike, value: Any) -> None:
    """Write a dataclass or plain value as JSON, see ``mcsc_bundle.files``."""
    save_text(path, json.dumps(to_plain(value), indent=1, ensure_ascii=False) + "\n")


def load_json(path: str | os.PathLike, kind: Any) -> Any:
    """Read a file that ``save_json`` wrote.

    Raises:
        PlanError: missing or unreadable file, or entries that do not fit ``kind``.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(f"expected the file {path}, which does not exist. {_remedy(path)}") from None
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}). Check the file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        kept = " planned.json beside it is the plan before edits." if path.name == "plan.json" else ""
        raise PlanError(f"{path} is not valid JSON: {error}. Mend it.{kept}") from None
    try:
        return from_plain(kind, content)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def _remedy(path: Path) -> str:
    """Which folder was probably meant, or how the file comes to be."""
    below = sorted(other.parent.name for other in path.parent.glob(f"*/{path.name}"))
    if below:
        return f"The folder holds several runs, give one of them: {', '.join(below)}."
    if path.name == "plan.json" and (path.parent / "models" / "trained.json").exists():
        return "Put it back: models/trained.json holds the plan of the weights, planned.json the one before edits."
    return "Plan the data set first: python -m preprocessing DATASET."
