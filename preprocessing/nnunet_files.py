"""nnU-Net's JSON files, read with care: an entry that cannot be is named with its file and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcsc_bundle.plan import PlanError
from preprocessing.declared import declared_channels, declared_ignore, declared_labels, declared_regions
from preprocessing.folders import DatasetError


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """Content of a JSON file.

    Raises:
        PlanError: missing, unreadable, or no JSON object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise PlanError(
            f"expected a readable JSON file at {path} ({error}). Give the file that nnU-Net wrote."
        ) from None
    if not isinstance(content, dict):
        raise PlanError(
            f"{path}: expected a JSON object, received a {type(content).__name__}. Give the file that nnU-Net wrote."
        )
    return content


@dataclass(frozen=True)
class Declared:
    """What nnU-Net's ``dataset.json`` says of channels and labels; fields as in ``Plan``."""

    channel_names: tuple[str, ...]
    labels: dict[str, int]
    ignore_value: int | None
    regions: dict[str, tuple[int, ...]]


def read_declared(content: Mapping[str, Any], path: str | os.PathLike) -> Declared:
    """Channels and labels by the rules that data sets are read by (``preprocessing.declared``).

    Args:
        content: of ``dataset.json``.
        path: where it was read, for messages.

    Raises:
        PlanError: no channels or no labels, or some that cannot be.
    """
    if not (content.get("labels") and (content.get("channel_names") or content.get("modality"))):
        raise PlanError(
            f'{path}: expected \'channel_names\' ({{"0": "CT"}}) and \'labels\' ({{"background": 0, "liver": 1}}), neither '
            f"empty, received the entries {sorted(content)[:12]}. Give nnU-Net's dataset.json, from the data set's folder in "
            "nnUNet_raw or nnUNet_preprocessed."
        )
    file = Path(path)
    try:
        labels = declared_labels(content, file)
        return Declared(
            declared_channels(content), labels, declared_ignore(content, file), declared_regions(content, file)
        )
    except DatasetError as error:
        raise PlanError(str(error)) from None


def number(value: Any, path: str | os.PathLike, name: str) -> float:
    """A number that a file gives, also as text.

    Raises:
        PlanError: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise PlanError(f"{path}: expected a number as {name}, received {value!r}. Correct the file.") from None
