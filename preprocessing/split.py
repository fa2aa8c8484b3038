"""Which cases train with labels, which without, which are kept out, and the folds for cross-validation.

Patients are never parted: all cases of one ``Case.group`` are on one side of test and training, and of a fold's
training and validation.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcsc_bundle.words import counted
from preprocessing.dataset import Dataset
from preprocessing.folders import DatasetError
from preprocessing.split_file import read_split_file

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
        test: labelled cases for the end: not measured, trained or validated on.
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
    if split_file is not None:
        pool, unlabeled, test = _named(dataset, Path(split_file))
    else:
        pool, unlabeled, test = _drawn(dataset, num_labeled, num_test, split_seed)
    labeled = pool[:num_labeled]
    _check(labeled, (*labeled, *(unlabeled or ())), test, dataset, num_labeled)
    rest = _rest(dataset, labeled, test)
    unlabeled = rest if unlabeled is None else (*unlabeled, *(name for name in rest if name in pool))
    groups = {case.name: case.group for case in dataset.cases}
    used = {*labeled, *unlabeled, *test}
    return Split(
        labeled=labeled,
        unlabeled=unlabeled,
        test=test,
        folds=_folds(labeled, groups, folds, split_seed),
        left_out=tuple(name for name in groups if name not in used),
        groups=groups,
    )


def training_cases(
    split: Split, fold: int | str = "auto", trained: Collection[str] = (), set_aside: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Cases that train with labels, that train without, and that validation watches.

    Args:
        split: from ``make_split``.
        fold: a number; ``all`` (train on every label, validate on none); or
            ``auto``: the fold that ``trained`` are of; else ``all`` if there is a test part or fewer than five labelled
            patients, else 0; the log says why.
        trained: labelled cases that have trained in this run folder, if any.
        set_aside: cases that could not be used there.

    Raises:
        DatasetError: no such fold.
    """
    if fold == "auto":
        fold, reason = _auto_fold(split, set(trained), set(set_aside))
        log.info("Fold %s: %s.", fold, reason)
    if fold == "all":
        return split.labeled, split.unlabeled, ()
    if not str(fold).isdecimal() or int(fold) >= len(split.folds):
        possible = ", ".join(["auto", "all", *map(str, range(len(split.folds)))])
        there = counted(len(split.folds), "fold")
        raise DatasetError(
            f"expected fold to be one of {possible}, as the labelled patients give {there}, received {fold!r}."
        )
    chosen = split.folds[int(fold)]
    watched = {split.groups.get(name, name) for name in chosen.val}
    unlabeled = tuple(name for name in split.unlabeled if split.groups.get(name, name) not in watched)
    return chosen.train, unlabeled, chosen.val


def _auto_fold(split: Split, trained: set[str], set_aside: set[str]) -> tuple[int | str, str]:
    """The fold that the folder's training had, known by the cases whose labels trained; the usual one without a training.

    A training lacks the cases that were set aside, which may be usable by now. So the cases are those of a fold less what is
    set aside still, or a good half of those of one fold alone.
    """
    usual, reason = _usual_fold(split)
    trains: dict[int | str, tuple[str, ...]] = {"all": split.labeled}
    trains |= {index: fold.train for index, fold in enumerate(split.folds)}
    of_run = [fold for fold, names in trains.items() if trained and set(names) - set_aside == trained]
    if not of_run:
        near = [index for index, fold in enumerate(split.folds) if trained < set(fold.train)]
        of_run = [index for index in near if len(near) == 1 and 2 * len(trained) >= len(split.folds[index].train)]
    if of_run:  # several where all that a fold watches was set aside
        return usual if usual in of_run else of_run[0], "as this run was trained"
    return usual, reason


def _usual_fold(split: Split) -> tuple[int | str, str]:
    patients = len({split.groups.get(name, name) for name in split.labeled})
    if split.test:
        return "all", f"every label trains; {counted(len(split.test), 'test case')} left for the end"
    if patients < MIN_GROUPS_TO_VALIDATE:
        return "all", f"every label trains, as {counted(patients, 'labelled patient')} cannot spare one for validation"
    return 0, f"one of {len(split.folds)} folds of the labelled cases validates"


def _drawn(
    dataset: Dataset, num_labeled: int | None, num_test: int | None, seed: int
) -> tuple[tuple[str, ...], None, tuple[str, ...]]:
    """Labelled cases in the order in which budgets take them, no list of unlabelled ones, and the test part."""
    groups = {case.name: case.group for case in dataset.cases}
    order = _shuffled_patients([case.name for case in dataset.cases if case.label is not None], groups, seed)
    num_test = _default_num_test(order, num_labeled) if num_test is None else num_test
    test = _whole_patients(reversed(order), num_test)
    return tuple(name for patient in order for name in patient if name not in test), None, test


def _named(dataset: Dataset, path: Path) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[str, ...]]:
    """The same from a file; a list that it does not have follows from the others."""
    parts = read_split_file(path, {case.name: case.label is not None for case in dataset.cases})
    test, unlabeled = parts.get("test", ()), parts.get("unlabeled")
    tested = {case.group for case in dataset.cases if case.name in test}
    others = tuple(
        case.name
        for case in dataset.cases
        if case.label is not None and case.group not in tested and case.name not in (unlabeled or ())
    )
    return parts.get("labeled", others), unlabeled, test


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
        wanted, kept = num_labeled or 1, f" beside {len(test)} kept out for testing" if test else ""
        enough = len(labeled) + len(test) >= wanted
        remedy = (
            f"Lower {'num_labeled, or ' if labeled else ''}num_test (0 keeps none out)."
            if enough
            else "Label more cases, or lower num_labeled."
        )
        raise DatasetError(
            f"{dataset.root}: expected at least {wanted} labelled cases to train on, received {len(labeled)}{kept}. {remedy}"
        )
    groups = {case.name: case.group for case in dataset.cases}
    both = {groups[name] for name in training} & {groups[name] for name in test}
    if both:
        raise DatasetError(
            f"expected each patient either in training or in test, received {', '.join(sorted(both)[:5])} in both."
        )
