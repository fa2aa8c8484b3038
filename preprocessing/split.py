"""Which cases train with labels, which without, which are kept out, and the folds for cross-validation.

Patients are never parted: all cases of one ``Case.group`` are on one side of test and training, and of a fold's
training and validation.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcsc_bundle.io import case_name
from preprocessing.dataset import Dataset
from preprocessing.folders import DatasetError

log = logging.getLogger(__name__)

TEST_SHARE, MAX_TEST = 0.2, 40
MIN_GROUPS_TO_VALIDATE = 5


@dataclass(frozen=True)
class Fold:
    """One way to part the labelled cases: names that train, and names that validate."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """The part each case plays, by name. Saved as ``splits.json``.

    Args:
        labeled: train with their labels.
        unlabeled: train without; a label they may have is never opened.
        test: labelled cases kept out of everything and evaluated at the end.
        folds: over ``labeled``; empty if there is only one labelled patient.
        left_out: cases that play no part.
        groups: the patient of every case.
    """

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    test: tuple[str, ...]
    folds: tuple[Fold, ...]
    left_out: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)


def make_split(
    dataset: Dataset,
    num_labeled: int | None = None,
    num_test: int | None = None,
    split_seed: int = 0,
    split_file: str | os.PathLike | None = None,
    folds: int = 5,
) -> Split:
    """Give each case its part.

    Patients are shuffled once by ``split_seed``. The test part takes whole patients from the end of this order until it
    has ``num_test`` cases (so it may hold a few more); the labelled part takes ``num_labeled`` cases from the start. So
    one seed has the same test part at every budget, and a larger budget contains the smaller. Where ``num_labeled``
    ends inside a patient, that patient's remaining labelled cases are left out, not hidden: they would be near-copies
    of labelled ones. Cases that never had a label stay, unless their patient is in the test part.

    Args:
        dataset: the cases.
        num_labeled: how many label maps to keep; the other labelled cases become unlabelled. ``None`` keeps all.
        num_test: labelled cases to keep out. ``None``: none, or with ``num_labeled`` a fifth, at most 40.
        split_seed: decides which.
        split_file: names the cases instead of drawing them. A text file lists labelled cases, one per line; JSON has
            lists ``labeled``, ``unlabeled``, ``test``. Without ``labeled``, all labelled cases not named elsewhere;
            without ``unlabeled``, all others by the rules above. With ``num_labeled`` the first so many of its labelled
            cases, in the file's order, keep their labels.
        folds: how many; fewer if there are fewer labelled patients, none with one.

    Raises:
        DatasetError: more labels asked for than there are, an unknown case in the file, a patient on both sides.
    """
    if num_labeled is not None and num_labeled < 1:
        raise DatasetError(f"expected num_labeled to be 1 or more, received {num_labeled}.")
    if num_test is not None and num_test < 0:
        raise DatasetError(f"expected num_test to be 0 or more, received {num_test}.")
    if split_file is not None and num_test is not None:
        raise DatasetError(
            f'expected either num_test or split_file, received both; list the test cases under "test" in {split_file}.'
        )
    groups = {case.name: case.group for case in dataset.cases}
    has_label = [case.name for case in dataset.cases if case.label is not None]
    if split_file is not None:
        named = _read_split_file(Path(split_file), groups, set(has_label))
        test = named.get("test", ())
        used = {*test, *named.get("unlabeled", ())}
        pool = named["labeled"] if "labeled" in named else tuple(name for name in has_label if name not in used)
        unlabeled = named.get("unlabeled")
    else:
        order = _shuffled_patients(has_label, groups, split_seed)
        num_test = _default_num_test(order, num_labeled) if num_test is None else num_test
        test = _whole_patients(reversed(order), num_test)
        pool = tuple(name for patient in order for name in patient if name not in test)
        unlabeled = None
    labeled = pool[:num_labeled]
    _check(labeled, (*labeled, *(unlabeled or ())), test, dataset, num_labeled)
    if unlabeled is None:
        unlabeled = _rest(dataset, labeled, test)
    elif num_labeled is not None:
        unlabeled = (*unlabeled, *(name for name in _rest(dataset, labeled, test) if name in pool))
    used = {*labeled, *unlabeled, *test}
    return Split(
        labeled=labeled,
        unlabeled=unlabeled,
        test=test,
        folds=_folds(labeled, groups, folds, split_seed),
        left_out=tuple(name for name in groups if name not in used),
        groups=groups,
    )


def training_cases(split: Split, fold: int | str = "auto") -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Cases that train with labels, that train without, and that validation watches.

    Args:
        split: from ``make_split``.
        fold: a number; ``all`` (train on every label and watch the test part, on which nothing is selected); or
            ``auto``: ``all`` if there is a test part or fewer than five labelled patients, else 0; the log says why.

    Raises:
        DatasetError: no such fold.
    """
    if fold == "auto":
        fold, reason = _auto_fold(split)
        log.info("Fold %s: %s.", fold, reason)
    if fold == "all":
        if not split.test:
            log.warning("No case is left to validate on: give --fold 0 or --num_test to watch one.")
        return split.labeled, split.unlabeled, split.test
    if not str(fold).isdecimal() or int(fold) >= len(split.folds):
        possible = ", ".join(["auto", "all", *map(str, range(len(split.folds)))])
        raise DatasetError(
            f"expected fold to be one of {possible} (there are {len(split.folds)} folds), received {fold!r}."
        )
    chosen = split.folds[int(fold)]
    watched = {split.groups.get(name, name) for name in chosen.val}
    unlabeled = tuple(name for name in split.unlabeled if split.groups.get(name, name) not in watched)
    return chosen.train, unlabeled, chosen.val


def _auto_fold(split: Split) -> tuple[int | str, str]:
    patients = len({split.groups.get(name, name) for name in split.labeled})
    if split.test:
        return "all", f"every label trains, as {len(split.test)} cases are kept out for the end"
    if patients < MIN_GROUPS_TO_VALIDATE:
        return "all", f"every label trains, as {patients} labelled patients are too few to spare one"
    return 0, f"one of {len(split.folds)} folds of the labelled cases validates"


def _shuffled_patients(names: Iterable[str], groups: Mapping[str, str], seed: int) -> list[tuple[str, ...]]:
    """Cases of each patient, patients in random order."""
    patients: dict[str, list[str]] = {}
    for name in sorted(names):
        patients.setdefault(groups[name], []).append(name)
    order = sorted(patients)
    random.Random(seed).shuffle(order)
    return [tuple(patients[patient]) for patient in order]


def _default_num_test(order: Sequence[Sequence[str]], num_labeled: int | None) -> int:
    if num_labeled is None or len(order) < 2:
        return 0
    return min(MAX_TEST, round(TEST_SHARE * sum(map(len, order))))


def _whole_patients(order: Iterable[tuple[str, ...]], number: int) -> tuple[str, ...]:
    taken: list[str] = []
    for patient in order:
        if len(taken) >= number:
            break
        taken += patient
    return tuple(sorted(taken))


def _rest(dataset: Dataset, labeled: Sequence[str], test: Sequence[str]) -> tuple[str, ...]:
    """What is left to train without labels: no case of a test patient, no hidden label of a labelled one."""
    groups = {case.name: case.group for case in dataset.cases}
    in_test, in_labeled = ({groups[name] for name in names} for names in (test, labeled))
    return tuple(
        case.name
        for case in dataset.cases
        if case.name not in labeled and case.group not in in_test and not (case.label and case.group in in_labeled)
    )


def _folds(labeled: Sequence[str], groups: Mapping[str, str], number: int, seed: int) -> tuple[Fold, ...]:
    patients = _shuffled_patients(labeled, groups, seed)
    number = min(number, len(patients))
    if number < 2:
        return ()
    held = [{name for patient in patients[index::number] for name in patient} for index in range(number)]
    return tuple(
        Fold(tuple(name for name in labeled if name not in val), tuple(name for name in labeled if name in val))
        for val in held
    )


def _check(
    labeled: Sequence[str], training: Sequence[str], test: Sequence[str], dataset: Dataset, num_labeled: int | None
) -> None:
    if not labeled or (num_labeled is not None and len(labeled) < num_labeled):
        raise DatasetError(
            f"{dataset.root}: expected at least {num_labeled or 1} labelled cases to train on, received {len(labeled)} "
            f"beside {len(test)} kept out for testing. Lower num_labeled or num_test (0 keeps none out)."
        )
    groups = {case.name: case.group for case in dataset.cases}
    both = {groups[name] for name in training} & {groups[name] for name in test}
    if both:
        raise DatasetError(
            f"expected each patient either in training or in test, received {', '.join(sorted(both)[:5])} in both."
        )


def _read_split_file(path: Path, names: Iterable[str], has_label: set[str]) -> dict[str, tuple[str, ...]]:
    """Lists of a split file by part.

    Raises:
        DatasetError: no such file, no list of names, a name that is unknown, twice, or has no label where it needs one.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"expected split_file to be a readable text or JSON file, received {path}: {error}."
        ) from None
    parts = _json_parts(path, text) if text.lstrip().startswith(("{", "[")) else {"labeled": _lines(text)}
    known, seen = set(names), set()
    for part, entries in parts.items():
        for name in entries:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else f"cases are named like {min(known)}."
                raise DatasetError(f"{path}: {part} case {name!r} is not in the data set; {hint}")
            if name in seen:
                raise DatasetError(f"{path}: expected each case once, received {name!r} again under {part}.")
            if part != "unlabeled" and name not in has_label:
                raise DatasetError(
                    f"{path}: {part} case {name!r} has no label in the data set; list it under unlabeled."
                )
            seen.add(name)
    return parts


def _lines(text: str) -> tuple[str, ...]:
    entries = (line.split("#")[0].strip() for line in text.splitlines())
    return tuple(case_name(Path(entry)) for entry in entries if entry)


def _json_parts(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}.") from None
    content = {"labeled": content} if isinstance(content, list) else content
    spelled = {"labelled": "labeled", "unlabelled": "unlabeled"}
    parts = {spelled.get(key.lower(), key.lower()): value for key, value in content.items()}
    parts = {key: value for key, value in parts.items() if key in ("labeled", "unlabeled", "test")}
    names = [name for value in parts.values() for name in (value if isinstance(value, list) else [None])]
    if not names or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            f'{path}: expected lists of case names under "labeled", "unlabeled", "test", received '
            f"{text[:80].strip()}..."
        )
    return {key: tuple(case_name(Path(name)) for name in value) for key, value in parts.items()}
