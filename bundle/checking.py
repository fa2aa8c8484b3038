"""What every check uses: the files it reads, and the words in which it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bundle.facts import PackError
from mcsc_bundle.plan_files import read_json


def metadata_of(bundle: Path) -> dict[str, Any]:
    """``configs/metadata.json``; PlanError: it cannot be read."""
    return read_json(bundle / "configs" / "metadata.json")


def config_of(bundle: Path, name: str) -> dict[str, Any]:
    """A config by its name without suffix."""
    return read_json(bundle / "configs" / f"{name}.json")


def names(bundle: Path, paths: list[Path]) -> str:
    """The first few of some files."""
    return ", ".join(str(path.relative_to(bundle)) for path in paths[:5])


def expect(condition: bool, expected: str, received: str) -> None:
    """Refuse with what was expected and what was there."""
    if not condition:
        raise PackError(f"expected {expected}, received {received}.")
