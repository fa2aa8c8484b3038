"""Measure a data set: geometry and intensities of all training cases, labels of the labelled ones, and any defects.

After nnU-Net v2's fingerprint (``fingerprint_extractor.py``). We differ: unlabelled cases count for geometry and
intensity, all foreground voxels are used up to a total (nnU-Net draws 1e8 with replacement), class sizes and components
are kept, and a bad case is set aside instead of ending the run.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcsc_bundle.labels import MAX_CLASSES
from mcsc_bundle.plan import CaseFingerprint, Fingerprint, IntensityStats
from mcsc_bundle.words import counted
from preprocessing.axes import keep_slices_together
from preprocessing.case_fingerprint import CaseMeasurement, describe, label_values, measure_case
from preprocessing.dataset import Case, Dataset
from preprocessing.differences import differences
from preprocessing.folders import DatasetError
from preprocessing.parallel import choose_workers, map_cases
from preprocessing.split import Split

log = logging.getLogger(__name__)

STRAY_SHARE = 1e-3  # of all foreground voxels; a class that nobody declared and that has fewer may be a slip
MAX_FOREGROUND = 10_000_000  # voxels per channel, all labelled cases together


class NoLabeledCaseError(DatasetError):
    """All labelled cases were set aside.

    Args:
        message: names the first one.
        rejected: each case that was set aside, with the reason.
    """

    def __init__(self, message: str, rejected: Mapping[str, str]) -> None:
        super().__init__(message)
        self.rejected = dict(rejected)


def measure(dataset: Dataset, split: Split, workers: int | None = None) -> tuple[Fingerprint, dict[str, str]]:
    """Check every case of a split and measure those that train. Equal for any number of workers.

    Labels of ``split.labeled`` and ``split.test`` are read, no others. Test cases are checked but not measured.

    Where several cases hold the same image, voxel for voxel, one stays: a test case before a labelled one before an
    unlabelled one, and of equals the first by name. (ACDC's patient074 and patient076 are one scan with two
    annotations; as two patients they would leak from training into validation.)

    Args:
        dataset: the cases.
        split: the part each one plays.
        workers: processes; ``None`` takes what cores, memory and the amount of data suggest.

    Returns:
        The fingerprint, and the reason for each case that was set aside.

    Raises:
        DatasetError: no labelled case can be used, or none has a foreground voxel.
    """
    fingerprint, rejected = examine(dataset, split, workers)
    for name, reason in rejected.items():
        log.warning("Set aside %s: %s", name, reason)
    _check_labeled(fingerprint, dataset, rejected)
    return fingerprint, rejected


def examine(dataset: Dataset, split: Split, workers: int | None = None) -> tuple[Fingerprint, dict[str, str]]:
    """``measure``, also where no labelled case can be used: what was found of the cases there are.

    Raises:
        DatasetError: nothing declares the labels, and the label files hold none.
    """
    cases = {case.name: case for case in dataset.cases}
    roles = {**dict.fromkeys(split.unlabeled, False), **dict.fromkeys((*split.labeled, *split.test), True)}
    labels = dataset.labels or labels_in(dataset, [cases[name] for name in split.labeled], workers)
    limit = MAX_FOREGROUND // max(1, len(split.labeled))
    arguments = {
        name: (
            cases[name],
            roles[name],
            dataset.channel_names,
            labels,
            0 if name in set(split.test) else limit,
            dataset.ignore_value,
            dataset.regions,
        )
        for name in sorted(roles)
    }
    measured, rejected = _run(arguments, workers)
    image_dims = _set_aside_other_dims(measured, rejected)
    for name, reason in duplicates(
        {name: case.fingerprint.content_hash for name, case in measured.items()}, split
    ).items():
        del measured[name]
        rejected[name] = reason
    training = [measured[name] for name in sorted(measured) if name not in set(split.test)]
    fingerprint = Fingerprint(
        dataset_name=dataset.name,
        channel_names=dataset.channel_names,
        labels=labels,
        image_dims=image_dims,
        cases=tuple(case.fingerprint for case in training),
        foreground=_foreground([case.foreground for case in training]),
        ignore_value=dataset.ignore_value,
        regions=dataset.regions,
    )
    comparable, _ = keep_slices_together(fingerprint)
    warnings = (*_label_warnings(fingerprint), *differences(comparable))
    return dataclasses.replace(fingerprint, warnings=warnings), dict(sorted(rejected.items()))


def _run(
    arguments: Mapping[str, Sequence[Any]], workers: int | None
) -> tuple[dict[str, CaseMeasurement], dict[str, str]]:
    files = {name: (*given[0].images, *([given[0].label] if given[1] else [])) for name, given in arguments.items()}
    measured, rejected = {}, {}
    for name, result in map_cases(measure_case, arguments, choose_workers(files, workers), "Measuring"):
        if isinstance(result, CaseMeasurement):
            measured[name] = result
        else:
            known = isinstance(result, (ValueError, MemoryError))
            rejected[name] = (
                str(result) if known else f"{', '.join(map(str, files[name]))}: {type(result).__name__}: {result}"
            )
    return measured, rejected


def labels_in(dataset: Dataset, labeled: Sequence[Case], workers: int | None) -> dict[str, int]:
    """Names for label values that nothing declares: ``class_VALUE`` for each value in the labelled cases.

    Raises:
        DatasetError: no or too many values.
    """
    files = {case.name: (case.label,) for case in labeled if case.label is not None}
    results = [result for _, result in map_cases(label_values, files, choose_workers(files, workers), "Reading labels")]
    read = [result for result in results if isinstance(result, dict)]  # the others are set aside later
    foreground = sorted(set().union(*read) - {0})
    if not 1 <= len(foreground) < MAX_CLASSES:
        unread = next(
            (f" The first that cannot be read: {result}" for result in results if not isinstance(result, dict)), ""
        )
        raise DatasetError(
            f"{dataset.root}: expected 1 to {MAX_CLASSES - 1} label values besides 0 in the {len(files)} label files, "
            f"received {len(foreground)}. Give label maps, and declare their labels in dataset.json.{unread}"
        )
    log.warning(
        "%s declares no labels: naming the values found class_%s.", dataset.root, ", class_".join(map(str, foreground))
    )
    total = sum(count for result in read for value, count in result.items() if value != 0)
    for value in foreground:
        having = [result[value] for result in read if value in result]
        if value < 0 or sum(having) < STRAY_SHARE * total:
            log.warning(
                "%s: the value %d is a class, too, with %s in %d of %d label files. Is it meant so? Else correct the files, or "
                "declare the labels in dataset.json, so that these are set aside.",
                dataset.root, value, counted(sum(having), "voxel"), len(having), len(read),
            )  # fmt: skip
    return {"background": 0, **{f"class_{value}": value for value in foreground}}


def _set_aside_other_dims(measured: dict[str, CaseMeasurement], rejected: dict[str, str]) -> int:
    """Keep the cases of the more frequent number of dimensions, which is returned (3 if equal)."""
    dims = Counter(len(case.fingerprint.shape) for case in measured.values())
    kept = max(dims, key=lambda number: (dims[number], number), default=3)
    for name in [name for name, case in measured.items() if len(case.fingerprint.shape) != kept]:
        shape = measured.pop(name).fingerprint.shape
        rejected[name] = (
            f"expected a {kept}-D image as in most cases, received shape {shape}; keep such scans in another data set. (A "
            f"slice that belongs among volumes is one of shape x, y, 1.)"
        )
    return kept


def duplicates(hashes: Mapping[str, str], split: Split) -> dict[str, str]:
    """Cases whose image another case has, voxel for voxel, with the words for it; which one stays is told at ``measure``.

    Args:
        hashes: of the images.
        split: the part each case plays.
    """
    rank = {**dict.fromkeys(split.unlabeled, 2), **dict.fromkeys(split.labeled, 1), **dict.fromkeys(split.test, 0)}
    first: dict[str, str] = {}
    found = {}
    for name in sorted(hashes, key=lambda name: (rank[name], name)):
        kept = first.setdefault(hashes[name], name)
        if kept != name:
            part = ("test", "labelled", "unlabelled")[rank[kept]]
            found[name] = f"the same image, voxel for voxel, as {part} case {kept}; remove one of them."
    return found


def _foreground(samples: Sequence[np.ndarray]) -> tuple[IntensityStats, ...]:
    if not sum(sample.shape[1] for sample in samples):
        return ()
    return tuple(describe(channel) for channel in np.concatenate(samples, axis=1))


def _check_labeled(fingerprint: Fingerprint, dataset: Dataset, rejected: Mapping[str, str]) -> None:
    if fingerprint.labeled and fingerprint.foreground:
        return
    if fingerprint.labeled:
        raise DatasetError(
            f"{dataset.root}: expected foreground in at least one of the {counted(len(fingerprint.labeled), 'labelled case')}, "
            f"received only background (0). Draw the labels with the values {fingerprint.labels}."
        )
    name, reason = next(iter(sorted(rejected.items())), ("none", "the split has no labelled case"))
    raise NoLabeledCaseError(
        f"{dataset.root}: expected a labelled case that can be used, received none; {counted(len(rejected), 'case')} "
        f"set aside. The first, {name}: {reason}",
        rejected,
    )


def _label_warnings(fingerprint: Fingerprint) -> list[str]:
    labeled: Sequence[CaseFingerprint] = fingerprint.labeled
    warnings = []
    for name in list(fingerprint.labels)[1:]:
        if not any(case.class_voxels[name] for case in labeled):
            warnings.append(
                f"Class {name} ({fingerprint.labels[name]}) is in no labelled case (of {len(labeled)}), so it cannot be learned."
            )
    if fingerprint.ignore_value is not None and labeled and not any(case.ignored_voxels for case in labeled):
        warnings.append(
            f"The ignore label ({fingerprint.ignore_value}) is in none of the {len(labeled)} labelled cases."
        )
    empty = [case.case for case in labeled if not any(count for key, count in list(case.class_voxels.items())[1:])]
    if empty:
        warnings.append(
            f"Only background in {counted(len(empty), 'labelled case')}, e.g. {empty[0]}. If nobody annotated them, "
            "leave their label "
            f"files away: then they train as unlabelled."
        )
    return warnings
