"""Which scans are of one patient, by declaration or by their names, so that no split or fold parts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from preprocessing.declared import is_integer
from preprocessing.folders import DatasetError

SAME_PATIENT = re.compile(
    r"(?<=.)[_-](?:(?:frame|time|tp|t|phase|visit|session|ses|slice)[_-]?\d+|ed|es|left|right)$", re.IGNORECASE
)
"""Ending that tells scans of one patient apart: ``_frame01``, ``_ED``, ``_t2``, ``_slice_15``, ``_left``, ..."""

COUNTED = re.compile(r"(.*\d)[_-](?:[a-z]+[_-]?)?\d{1,2}", re.IGNORECASE)
"""A number and another: ``P4-1`` and ``P4_scan1`` may be of patient ``P4``, or not (``LUNA16_scan_1``); only people know."""

FEW_SCANS = 12  # of one patient; if all names begin alike and these are more, that is the data set's name


def patient_groups(names: Sequence[str], content: Mapping[str, Any], file: Path) -> dict[str, str]:
    """The patient of each case, so that no patient is on both sides of a split.

    ``groups`` (case to patient) goes before ``subject_groups`` (lists of case names, or of numbers that are matched
    with the number at the end of the case name), and both before the case name without its endings ``SAME_PATIENT``.

    Args:
        names: of the cases.
        content: of ``dataset.json``, keys in lower case; empty without one.
        file: where it was read, for messages.

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
        keys = (str(int(member)) if is_integer(str(member)) else _name(member) for member in _list(members, file))
        cases = [name for key in keys for name in numbered.get(key, ())]
        groups.update(dict.fromkeys(cases, min(cases, default="")))
    declared = content.get("groups") or {}
    if not isinstance(declared, Mapping):
        raise DatasetError(f'{file}: expected "groups" as {{case: patient}}, received a {type(declared).__name__}.')
    declared = {_name(name): group for name, group in declared.items()}
    unknown = sorted(set(declared) - set(names))
    if unknown:
        raise DatasetError(
            f'{file}: expected cases of the data set in "groups", received {", ".join(unknown[:5])}. Remove or '
            "correct them."
        )
    return {**groups, **{name: str(group) for name, group in declared.items()}}


def _name(declared: Any) -> str:
    """With accents in one piece, as names of cases have them (``mcsc_bundle.io.case_name``)."""
    return normalize("NFC", str(declared))


def _patient_in_name(name: str) -> str:
    shorter = SAME_PATIENT.sub("", name)
    return name if shorter == name else _patient_in_name(shorter)


def _list(value: Any, file: Path) -> Iterable[Any]:
    if value is not None and not isinstance(value, (list, tuple)):
        raise DatasetError(f'{file}: expected "subject_groups" as a list of lists, received {value!r}.')
    return value or ()


def look_alike(names: Iterable[str], content: Mapping[str, Any]) -> str:
    """What to say where names may hide patients with several scans (``P4-1``, ``P4-2``); nothing if groups are declared.

    Args:
        names: of the cases.
        content: of ``dataset.json``.
    """
    if content.get("groups") or content.get("subject_groups"):
        return ""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        if _patient_in_name(name) == name and (match := COUNTED.fullmatch(name)):
            alike.setdefault(match[1], []).append(name)
    several = [members for members in alike.values() if len(members) > 1]
    if not several or (len(alike) == 1 and len(several[0]) > FEW_SCANS):
        return ""
    first, second, *_ = several[0]
    return (
        f"{sum(map(len, several))} cases have names like {first} and {second}, and count as a patient each. If these are of "
        f"one patient, a split may part them, and scores will be too good: declare "
        f'{{"groups": {{"{first}": "A", "{second}": "A"}}}} in dataset.json.'
    )
