"""nnU-Net's JSON files, read with care: an entry that cannot be is named with its file and what to do.

Source: nnU-Net v2 ``documentation/dataset_format.md``, ``region_based_training.md``, ``ignore_label.md``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcsc_bundle.plan import PlanError
from preprocessing.declared import IGNORE

REMEDY = "Give nnU-Net's dataset.json, from the data set's folder in nnUNet_raw or nnUNet_preprocessed."


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


def declared_channels(declared: Mapping[str, Any], path: str | os.PathLike) -> tuple[str, ...]:
    """Channel names in order, from ``channel_names`` or the older ``modality``.

    Raises:
        PlanError: none are declared.
    """
    entries = declared.get("channel_names") or declared.get("modality")
    if isinstance(entries, Mapping):
        entries = [entries[key] for key in sorted(entries, key=_channel_number)]
    if not isinstance(entries, list) or not entries:
        raise PlanError(
            f"{path}: expected the entries 'channel_names' ({{\"0\": \"CT\"}}) and 'labels', received the entries "
            f"{sorted(declared)[:12]}. {REMEDY}"
        )
    return tuple(str(name) for name in entries)


def class_values(declared: Mapping[str, Any], path: str | os.PathLike) -> dict[str, int]:
    """Class values, background first; regions by ``regions_class_order``, in its order; also the Decathlon's ``{"1": "liver"}``.

    The ignore label is no class, see ``ignore_value``.

    Raises:
        PlanError: no labels, or regions without a value for each.
    """
    labels = declared.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        raise PlanError(
            f'{path}: expected \'labels\' such as {{"background": 0, "tumour": 1}}, received {labels!r}. {REMEDY}'
        )
    regions, order = region_values(declared, path), declared.get("regions_class_order")
    if regions:
        if not isinstance(order, list) or len(order) != len(regions) or not all(isinstance(v, int) for v in order):
            raise PlanError(
                f"{path}: expected one value in 'regions_class_order' per region, received {order!r}. Write the list, in "
                f"the order in which the regions are painted, as nnU-Net's region_based_training.md shows."
            )
        return {"background": 0, **dict(zip(regions, order, strict=True))}
    values = {}
    for name, value in labels.items():
        if isinstance(value, str) and str(name).isdigit():
            name, value = value, int(name)
        if str(name) == "background":
            values[str(name)] = 0
        elif name == IGNORE:
            continue
        else:
            values[str(name)] = int(number(value, path, f"label '{name}'"))
    return dict(sorted(values.items(), key=lambda item: item[1]))


def region_values(declared: Mapping[str, Any], path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Region to its label values, in the order of the file; empty if no label is a list of values, as nnU-Net has it.

    Raises:
        PlanError: a value that is no number.
    """
    labels = declared["labels"]
    if not any(isinstance(value, list) for value in labels.values()):
        return {}
    lists = {str(name): value if isinstance(value, list) else [value] for name, value in labels.items()}
    return {
        name: tuple(int(number(value, path, f"label '{name}'")) for value in values)
        for name, values in lists.items()
        if name not in ("background", IGNORE)
    }


def ignore_value(declared: Mapping[str, Any], path: str | os.PathLike) -> int | None:
    """Value of the ignore label, if there is one; ``class_values`` checks the other labels.

    Raises:
        PlanError: it is no number.
    """
    labels = {str(name): value for name, value in declared["labels"].items()}
    named = {value: name for name, value in labels.items() if isinstance(value, str)}  # the Decathlon's direction
    value = labels.get(IGNORE, named.get(IGNORE))
    return None if value is None else int(number(value, path, f"label '{IGNORE}'"))


def number(value: Any, path: str | os.PathLike, name: str) -> float:
    """A number that a file gives, also as text.

    Raises:
        PlanError: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise PlanError(f"{path}: expected a number as {name}, received {value!r}. Correct the file.") from None


def _channel_number(key: Any) -> tuple[bool, int, str]:
    text = str(key)
    return (not text.isdigit(), int(text) if text.isdigit() else 0, text)
