"""What ``dataset.json`` declares, in the words of the Decathlon and of nnU-Net: labels and channels (patients: ``patients.py``).

Sources: medicaldecathlon.com (``labels`` value to name, ``modality``); nnU-Net v2 ``documentation/dataset_format.md``
(``labels`` name to value, ``channel_names``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcsc_bundle.labels import MAX_CLASSES, paints_apart
from preprocessing.folders import DatasetError

IGNORE = "ignore"  # nnU-Net's name for the value of voxels that nobody annotated


def read_declaration(file: Path) -> dict[str, Any]:
    """Content of ``dataset.json`` with lower-case keys.

    Raises:
        DatasetError: no valid JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{file} is not valid JSON: {error}. Mend it, or remove it to match images and labels by name."
        ) from None
    if not isinstance(content, dict):
        raise DatasetError(
            f"{file}: expected a JSON object with 'labels' and 'channel_names', received a {type(content).__name__}."
        )
    return {str(key).lower(): value for key, value in content.items()}


def declared_labels(content: Mapping[str, Any], file: Path) -> dict[str, int]:
    """Class name to value, background (0) first and then by value, from either direction of the mapping.

    nnU-Net's ignore label is no class, see ``declared_ignore``. Where labels are regions, see ``declared_regions``, a name has
    the value of ``regions_class_order`` that it is painted with, in that order.

    Raises:
        DatasetError: no foreground label, a name or value twice, another value than 0 for ``background``, regions without an
            order.
    """
    entries = content.get("labels")
    if not isinstance(entries, Mapping) or not entries:
        raise DatasetError(
            f'{file}: expected "labels" such as {{"background": 0, "tumour": 1}}, received {entries!r}; declare them.'
        )
    if regions := declared_regions(content, file):
        order: list[int] = content["regions_class_order"]
        return {"background": 0, **dict(zip(regions, order, strict=True))}
    labels: dict[str, int] = {}
    for name, value in _labels(entries, file):
        if name.lower() == IGNORE:
            continue
        if name in labels or value in labels.values():
            raise DatasetError(
                f"{file}: expected each label name and value once, received {name!r} = {value} beside {labels}."
            )
        labels[name] = value
        if name.lower() == "background" and value != 0:
            raise DatasetError(
                f"{file}: expected the value 0 for background, received {value}. Relabel the label files so that 0 is the "
                'background, or rename the class if it is another one, and declare "background": 0.'
            )
    if 0 not in labels.values():
        labels["background"] = 0
    if not 2 <= len(labels) <= MAX_CLASSES:
        raise DatasetError(
            f"{file}: expected 1 to {MAX_CLASSES - 1} labels besides background (0), received {len(labels) - 1}."
        )
    return dict(sorted(labels.items(), key=lambda item: (item[1] != 0, item[1])))


def declared_ignore(content: Mapping[str, Any], file: Path) -> int | None:
    """Value of the ignore label (``"ignore": 3``), ``None`` if none is declared.

    Raises:
        DatasetError: it is declared twice, or is not the highest value, as nnU-Net asks for.
    """
    regions = declared_regions(content, file)
    entries = _labels(content["labels"], file)
    values = [value for name, value in entries if name.lower() == IGNORE]
    others = [value for name, value in entries if name.lower() != IGNORE]
    others += [value for region in regions.values() for value in region]
    if values and (len(values) > 1 or values[0] <= max(others)):
        raise DatasetError(
            f"{file}: expected the ignore label once and as the highest value, received {values} beside {sorted(set(others))}. "
            f"Give it {max(others) + 1}, in dataset.json and in the label files."
        )
    return values[0] if values else None


def declared_regions(content: Mapping[str, Any], file: Path) -> dict[str, tuple[int, ...]]:
    """Region to its label values (``"whole": [1, 2, 3]``), in the order of ``dataset.json``; empty without a list of values.

    Where one label is a region all are, those with a single value too, but for background and ignore label.

    Raises:
        DatasetError: values that are no positive integers, or a ``regions_class_order`` that does not fit.
    """
    entries = content["labels"]
    if not any(isinstance(entry, (list, tuple)) for entry in entries.values()):
        return {}
    regions = {}
    for name, entry in entries.items():
        values = tuple(entry) if isinstance(entry, (list, tuple)) else (entry,)
        if values == (0,) or (str(name).lower() == IGNORE and not isinstance(entry, (list, tuple))):
            continue
        if (
            str(name).lower() == IGNORE
            or not values
            or not all(isinstance(value, int) and value > 0 for value in values)
        ):
            raise DatasetError(
                f"{file}: expected region {name!r} as a list of positive integers (and ignore as one), received {entry!r}. "
                "Correct it."
            )
        regions[str(name)] = values
    order = content.get("regions_class_order")
    if not paints_apart(order, list(regions.values())):
        raise DatasetError(
            f'{file}: expected "regions_class_order" with one value of each region {regions} that is in none of the later '
            f"ones, received {order!r}. Regions are painted in this order, the largest first: else a mask would read as other "
            "regions than were predicted."
        )
    if len(values_of := {value for region in regions.values() for value in region}) >= MAX_CLASSES:
        raise DatasetError(
            f"{file}: expected regions of at most {MAX_CLASSES - 1} label values, received {len(values_of)}. Merge some."
        )
    return regions


def _labels(entries: Mapping[str, Any], file: Path) -> list[tuple[str, int]]:
    """Name and value of each label that is no region."""
    return [_label(str(key), entry, file) for key, entry in entries.items() if not isinstance(entry, (list, tuple))]


def _label(key: str, entry: Any, file: Path) -> tuple[str, int]:
    if isinstance(entry, str) and is_integer(key):
        name, value = entry, int(key)
    elif isinstance(entry, (int, str)) and not isinstance(entry, bool) and is_integer(str(entry)):
        name, value = key, int(entry)
    else:
        raise DatasetError(
            f'{file}: expected labels as {{"name": integer}} or {{"integer": "name"}}, received {{{key!r}: {entry!r}}}.'
        )
    return name, value


def declared_channels(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Channel names in order; empty if nothing declares them.

    Raises:
        DatasetError: not names.
    """
    entries = content.get("channel_names") or content.get("modality")
    names = list(entries.values()) if isinstance(entries, Mapping) else entries
    if not isinstance(names, (str, list, tuple, type(None))) or not all(isinstance(name, str) for name in names or ()):
        raise DatasetError(
            f'dataset.json: expected "channel_names" (or "modality") such as {{"0": "MRI"}}, received {entries!r}.'
        )
    if isinstance(entries, Mapping):
        order = sorted(
            entries, key=lambda key: (not is_integer(str(key)), int(key) if is_integer(str(key)) else str(key))
        )
        return tuple(str(entries[key]) for key in order)
    if isinstance(entries, str):
        return (entries,)
    return tuple(str(entry) for entry in entries or ())


def is_integer(text: str) -> bool:
    """Whether ``int`` reads it."""
    return re.fullmatch(r"[+-]?\d+", text.strip()) is not None
