"""What ``dataset.json`` declares, in the words of the Decathlon and of nnU-Net: labels, channels, patient groups.

Sources: medicaldecathlon.com (``labels`` value to name, ``modality``); nnU-Net v2 ``documentation/dataset_format.md``
(``labels`` name to value, ``channel_names``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from preprocessing.folders import DatasetError

MAX_CLASSES = 255  # class indices are stored as uint8

SAME_PATIENT = re.compile(
    r"(?<=.)[_-](?:(?:frame|time|tp|t|phase|visit|session|ses|slice)[_-]?\d+|ed|es|left|right)$", re.IGNORECASE
)
"""Ending that tells scans of one patient apart: ``_frame01``, ``_ED``, ``_t2``, ``_slice_15``, ``_left``, ..."""


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

    Raises:
        DatasetError: no foreground label, a name or value twice, nnU-Net's regions or ignore label.
    """
    entries = content.get("labels")
    if not isinstance(entries, Mapping) or not entries:
        raise DatasetError(
            f'{file}: expected "labels" such as {{"background": 0, "tumour": 1}}, received {entries!r}; declare them.'
        )
    labels: dict[str, int] = {}
    for key, entry in entries.items():
        name, value = _label(str(key), entry, file)
        if name in labels or value in labels.values():
            raise DatasetError(
                f"{file}: expected each label name and value once, received {name!r} = {value} beside {labels}."
            )
        labels[name] = value
    if 0 not in labels.values():
        labels["background"] = 0
    if not 2 <= len(labels) <= MAX_CLASSES:
        raise DatasetError(
            f"{file}: expected 1 to {MAX_CLASSES - 1} labels besides background (0), received {len(labels) - 1}."
        )
    return dict(sorted(labels.items(), key=lambda item: (item[1] != 0, item[1])))


def _label(key: str, entry: Any, file: Path) -> tuple[str, int]:
    if isinstance(entry, (list, tuple)):
        raise DatasetError(
            f"{file}: label {key!r} is a region (values {list(entry)}), and regions are not supported yet. "
            f"Declare one value per label."
        )
    if isinstance(entry, str) and _is_integer(key):
        name, value = entry, int(key)
    elif isinstance(entry, (int, str)) and not isinstance(entry, bool) and _is_integer(str(entry)):
        name, value = key, int(entry)
    else:
        raise DatasetError(
            f'{file}: expected labels as {{"name": integer}} or {{"integer": "name"}}, received {{{key!r}: {entry!r}}}.'
        )
    if name.lower() == "ignore":
        raise DatasetError(
            f"{file}: the ignore label ({value}) is not supported yet. Relabel its voxels, or leave the label of such "
            f"cases away: then they train as unlabelled."
        )
    return name, value


def declared_channels(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Channel names in order; empty if nothing declares them.

    Raises:
        DatasetError: not names.
    """
    entries = content.get("channel_names", content.get("modality"))
    names = list(entries.values()) if isinstance(entries, Mapping) else entries
    if not isinstance(names, (str, list, tuple, type(None))) or not all(isinstance(name, str) for name in names or ()):
        raise DatasetError(
            f'dataset.json: expected "channel_names" (or "modality") such as {{"0": "MRI"}}, received {entries!r}.'
        )
    if isinstance(entries, Mapping):
        order = sorted(
            entries, key=lambda key: (not _is_integer(str(key)), int(key) if _is_integer(str(key)) else str(key))
        )
        return tuple(str(entries[key]) for key in order)
    if isinstance(entries, str):
        return (entries,)
    return tuple(str(entry) for entry in entries or ())


def patient_groups(names: Sequence[str], content: Mapping[str, Any], file: Path) -> dict[str, str]:
    """The patient of each case, so that no patient is on both sides of a split.

    ``groups`` (case to patient) goes before ``subject_groups`` (lists of case names, or of numbers that are matched
    with the number at the end of the case name), and both before the case name without its endings ``SAME_PATIENT``.

    Raises:
        DatasetError: not such a mapping or list, or ``groups`` names an unknown case.
    """
    groups = {name: _patient_in_name(name) for name in names}
    numbered: dict[str, list[str]] = {}
    for name in names:
        ending = re.search(r"\d+$", name)
        for key in {name, str(int(ending[0])) if ending else name}:
            numbered.setdefault(key, []).append(name)
    for members in _list(content.get("subject_groups"), file):
        keys = (str(int(member)) if _is_integer(str(member)) else str(member) for member in _list(members, file))
        cases = [name for key in keys for name in numbered.get(key, ())]
        groups.update(dict.fromkeys(cases, min(cases, default="")))
    declared = content.get("groups") or {}
    if not isinstance(declared, Mapping):
        raise DatasetError(f'{file}: expected "groups" as {{case: patient}}, received a {type(declared).__name__}.')
    unknown = sorted(set(declared) - set(names))
    if unknown:
        raise DatasetError(
            f'{file}: expected cases of the data set in "groups", received {", ".join(unknown[:5])}. Remove or '
            "correct them."
        )
    return {**groups, **{name: str(group) for name, group in declared.items()}}


def _patient_in_name(name: str) -> str:
    shorter = SAME_PATIENT.sub("", name)
    return name if shorter == name else _patient_in_name(shorter)


def _list(value: Any, file: Path) -> Iterable[Any]:
    if value is not None and not isinstance(value, (list, tuple)):
        raise DatasetError(f'{file}: expected "subject_groups" as a list of lists, received {value!r}.')
    return value or ()


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", text.strip()) is not None
