"""A folder of scans as a list of cases, whatever its layout (see ``preprocessing.layouts``)."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mcsc_bundle.io import ImageError, load_image
from mcsc_bundle.words import counted, warn_once
from preprocessing.declared import (
    declared_channels,
    declared_ignore,
    declared_labels,
    declared_regions,
    read_declaration,
)
from preprocessing.folders import DatasetError, find_child
from preprocessing.layouts import LAYOUTS, Case, find_cases, is_bare
from preprocessing.patients import look_alike, patient_groups

__all__ = ["Case", "Dataset", "DatasetError", "read_dataset"]

log = logging.getLogger(__name__)

AIR_HU = (-1100.0, -900.0)
LEAST_AIR = 0.01  # of the voxels of a CT
LEAST_HU = -3100.0  # padding outside a scanner's field of view; other scales go further down
DECLARE = (
    "To say otherwise, or to name classes, write a dataset.json: "
    '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}}.'
)


@dataclass(frozen=True)
class Dataset:
    """What a folder offers for training.

    Args:
        name: from ``dataset.json``, or the folder's name.
        root: the folder.
        channel_names: one per channel, in order.
        labels: class name to value in the label files, background (0) first. Empty if nothing declares them: the
            fingerprint then names the values in the labelled cases, since hidden labels must not be opened.
        cases: sorted by name, each name once.
        regions: region to its values in the label files, where labels are regions; ``labels`` then has the value that each is
            painted with (see ``preprocessing.declared``).
        ignore_value: value in the label files of voxels that nobody annotated; ``None`` if none is declared.
    """

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    cases: tuple[Case, ...]
    regions: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    ignore_value: int | None = None


def read_dataset(folder: str | os.PathLike) -> Dataset:
    """Find the cases of a data set folder. No label is opened, and of the images at most three, to see what they hold.

    Args:
        folder: the data set, or its ``dataset.json``.

    Raises:
        DatasetError: no such folder, no case or no labelled case in it, no labels declared in ``dataset.json``, a
            case name twice or one that is no file name, a label without an image, labels of a kind that is not supported.
    """
    root = Path(folder)
    root = root.parent if root.name.lower() == "dataset.json" else root
    if not root.is_dir():
        raise DatasetError(f"expected a data set folder, received {root}, which is no folder. Give one with {LAYOUTS}.")
    file = find_child(root, "dataset.json")
    content = read_declaration(file) if file else {}
    told = file is not None and not is_bare(root, content)
    labels = declared_labels(content, file) if file and told else {}
    channels = declared_channels(content)
    cases = find_cases(root, content, len(channels) or None)
    _check(cases, root)
    names = [case.name for case in cases]
    groups = patient_groups(names, content, file or root)
    if hint := look_alike(names, content):
        warn_once(log, f"{root}: {hint}")
    dataset = Dataset(
        name=str(content.get("name") or root.resolve().name),
        root=root,
        channel_names=channels or _unnamed_channels(root, cases),
        labels=labels,
        cases=tuple(dataclasses.replace(case, group=groups[case.name]) for case in cases),
        regions=declared_regions(content, file) if file and told else {},
        ignore_value=declared_ignore(content, file) if file and told else None,
    )
    _report(dataset)
    return dataset


def _unnamed_channels(root: Path, cases: Sequence[Case]) -> tuple[str, ...]:
    """Names for channels that nothing declares: ``image``, or ``image_0``, ``image_1``... as many as a case has.

    One channel whose first and last image seem to hold air in Hounsfield units is named ``CT``, which decides its normalisation.
    """
    count, air = max(len(case.images) for case in cases), ""
    if count == 1:
        labeled = [case for case in cases if case.label is not None]  # these tell what the data set is
        first, last = _look_at_one(labeled), _look_at_one(labeled[::-1])
        if first.channels != last.channels:  # one of them is not like the others
            middle = _look_at_one(labeled[len(labeled) // 2 :])
            first = last if middle.channels == last.channels else first
        count = first.channels
        other = _look_at_one(cases[::-1]) if first.air else first
        air = f"{first.case} and {other.case}" if count == 1 and first.air and other.air else ""
    if air:
        warn_once(
            log,
            f"{root} declares no channels. {air} seem to hold air of -1000 HU: normalised as CT. {DECLARE.replace('CT', 'MR')}",
        )
        return ("CT",)
    warn_once(log, f"{root} declares no channels. Intensities are normalised per image (z-score). {DECLARE}")
    return ("image",) if count == 1 else tuple(f"image_{index}" for index in range(count))


@dataclass(frozen=True)
class _Look:
    case: str
    channels: int
    air: bool


def _look_at_one(cases: Sequence[Case]) -> _Look:
    """At the first that can be read; the fingerprint sets the others aside with the reason."""
    for case in cases:
        try:
            image = load_image(case.images)
        except ImageError:
            continue
        return _Look(case.name, int(image.shape[0]), _has_air(image))
    return _Look("", 1, False)


def _has_air(image: Tensor) -> bool:
    least, most = AIR_HU
    return bool(image.min() >= LEAST_HU and ((image >= least) & (image <= most)).float().mean() >= LEAST_AIR)


def _check(cases: Sequence[Case], root: Path) -> None:
    if not cases:
        raise DatasetError(f"{root}: the data set is empty. Expected {LAYOUTS}.")
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if twice:
        files = " and ".join(str(case.images[0]) for case in cases if case.name == twice[0])
        raise DatasetError(f"{root}: expected each case name once, received {twice[0]!r} for {files}; rename one.")
    by_label = Counter(case.label for case in cases if case.label is not None)
    if shared := [label for label, count in by_label.items() if count > 1]:
        files = " and ".join(str(case.images[0]) for case in cases if case.label == shared[0])
        raise DatasetError(
            f"{root}: expected a label file for each case, received {shared[0]} for {files}. If these are channels of one case, "
            'list them together: "image": ["CASE_0000...", "CASE_0001..."].'
        )
    odd = [case.name for case in cases if not case.name.strip() or set(case.name) & set("/\\\0") or case.name[0] == "."]
    if odd:  # they become names of files
        raise DatasetError(
            f"{root}: expected case names without a slash, a backslash or a dot at the start, received {odd[0]!r} "
            f"({len(odd)} such cases); rename them in dataset.json."
        )
    tests = [case.images[0] for case in cases if any(p.name.lower() == "imagests" for p in case.images[0].parents)]
    if tests:
        raise DatasetError(
            f"{tests[0]}: expected no training case in imagesTs, which holds test images. "
            f"Move it to imagesUn to train on it without a label."
        )
    if not any(case.label for case in cases):
        raise DatasetError(
            f"{root}: expected at least one labelled case, received {counted(len(cases), 'case')} and no label file. Put "
            "label maps "
            f"into labelsTr/ (or labels/) under the images' names, or correct the paths in dataset.json."
        )


def _report(dataset: Dataset) -> None:
    labeled = sum(case.label is not None for case in dataset.cases)
    unlabeled = counted(len(dataset.cases) - labeled, "unlabelled case")
    log.info("%s: %d labelled and %s in the folder.", dataset.name, labeled, unlabeled)
    shared = next((case for case in dataset.cases if case.group != case.name), None)
    if shared:
        patients = len({case.group for case in dataset.cases})
        log.info(
            "They are taken as scans of %s (%s belongs to %s), which no split parts; "
            'a key "groups": {case: patient} in dataset.json says otherwise.',
            counted(patients, "patient"),
            shared.name,
            shared.group,
        )
