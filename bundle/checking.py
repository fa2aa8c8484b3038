"""What every check uses: the files it reads, and the words in which it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bundle.facts import PackError
from mcsc_bundle.plan import Plan, PlanError


def metadata_of(bundle: Path) -> dict[str, Any]:
    """``configs/metadata.json``."""
    return read_json(bundle / "configs" / "metadata.json")


def config_of(bundle: Path, name: str) -> dict[str, Any]:
    """A config by its name without suffix."""
    return read_json(bundle / "configs" / f"{name}.json")


def plan_of(bundle: Path) -> Plan:
    """``plan.json``."""
    try:
        return Plan.load(bundle / "plan.json")
    except PlanError as error:
        raise PackError(str(error)) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file.

    Raises:
        PackError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PackError(f"{path.name}: expected a JSON file, received {error}.") from None


def names(bundle: Path, paths: list[Path]) -> str:
    """The first few of some files."""
    return ", ".join(str(path.relative_to(bundle)) for path in paths[:5])


def expect(condition: bool, expected: str, received: str) -> None:
    """Refuse with what was expected and what was there."""
    if not condition:
        raise PackError(f"expected {expected}, received {received}.")
