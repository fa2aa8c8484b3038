"""A data set in nnU-Net's folder layout, so that nnU-Net can be run on the same cases.

Labelled cases go to ``imagesTr`` and ``labelsTr``, unlabelled ones to ``imagesUn``, which nnU-Net does not look at and
``preprocessing.dataset`` reads as unlabelled again (``imagesTs`` would make them test cases); a test part, if one is asked
for, to ``imagesTs`` and ``labelsTs``. ``splits_final.json`` holds our folds, which part no patient's scans.

Source: nnU-Net v2 ``documentation/dataset_format.md`` and ``verify_dataset_integrity.py``: one file per channel, labels
0, 1, 2, ... on exactly the image's grid.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mcsc_bundle.case_checks import check_grid, class_indices
from mcsc_bundle.formats import itk_reader
from mcsc_bundle.io import ImageError, load_image, load_label
from mcsc_bundle.labels import STORED_IGNORED, file_values
from mcsc_bundle.writer import write_like
from preprocessing.case_fingerprint import as_stored, check_channels, class_members, content_hash
from preprocessing.dataset import Case, Dataset, read_dataset
from preprocessing.declared import IGNORE
from preprocessing.fingerprint import duplicates, labels_in
from preprocessing.folders import DatasetError
from preprocessing.parallel import choose_workers, map_cases
from preprocessing.split import Split, make_split

log = logging.getLogger(__name__)

ENDING = ".nii.gz"
MAX_ID = 999
TERMS = ("description", "reference", "licence", "license")
PARTS = {"labeled": "Tr", "unlabeled": "Un", "test": "Ts"}


def export(
    dataset_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    dataset_id: int,
    workers: int | None = None,
    **split_options: Any,
) -> tuple[Path, dict[str, str]]:
    """Write ``output_dir/DatasetXXX_Name``, whole or not at all.

    Images that nnU-Net reads as they are get copied byte by byte; others (4-D, .mha, pictures, ...) are written as one
    NIfTI file per channel. Labels are renumbered 0, 1, 2, ... in the order of ``dataset.json``, the ignore label last.
    Of cases with one image, voxel for voxel, one goes along, as in a training.

    Args:
        dataset_dir: Decathlon, nnU-Net or bare folder.
        output_dir: nnU-Net's ``nnUNet_raw``.
        dataset_id: 1 to 999.
        workers: processes; ``None`` takes what cores, memory and the amount of data suggest.
        **split_options: of ``make_split`` (``num_labeled``, ``num_test``, ``split_seed``, ``split_file``), for the same
            labelled, unlabelled and test cases as in a training of ours.

    Returns:
        The folder, and the reason for each case that was left out.

    Raises:
        DatasetError: the data set cannot be used, the number is taken, or no labelled case is left.
    """
    dataset = read_dataset(dataset_dir)
    split = make_split(dataset, **split_options)
    folder = _new_folder(Path(output_dir), dataset_id, dataset.name)
    cases = {case.name: case for case in dataset.cases}
    labels = dataset.labels or labels_in(dataset, [cases[name] for name in split.labeled], workers)
    work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    arguments = {
        name: (cases[name], part, dataset.channel_names, labels, work, dataset.ignore_value, dataset.regions)
        for part in PARTS
        for name in getattr(split, part)
    }
    files = {name: given[0].images for name, given in arguments.items()}
    rejected, hashes = {}, {}
    try:
        for name, result in map_cases(export_case, arguments, choose_workers(files, workers), "Exporting"):
            if isinstance(result, OSError):
                raise result
            if isinstance(result, Exception):
                rejected[name] = str(result) or type(result).__name__
            else:
                hashes[name] = result
        for name, reason in duplicates(hashes, split).items():
            rejected[name] = reason
            _remove(name, arguments[name][1], work)
        for name, reason in rejected.items():
            log.warning("Left out %s: %s", name, reason)
        _write_declarations(work, dataset, labels, split, rejected)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder, rejected


def export_case(
    case: Case,
    part: str,
    channel_names: Sequence[str],
    labels: Mapping[str, int],
    folder: Path,
    ignore_value: int | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Check and write one case.

    Args:
        case: its files; the label is opened unless the part is ``unlabeled``.
        part: a key of ``PARTS``.
        channel_names, labels: declared.
        folder: of the data set.
        ignore_value: declared; it becomes the highest value, as nnU-Net asks for.
        regions: declared, name to values; ``None`` if labels are classes.

    Returns:
        Hash of the image.

    Raises:
        ImageError: the case cannot be used, or not by nnU-Net.
    """
    image = load_image(case.images)
    check_channels(image, case, channel_names)
    classes = None
    if part != "unlabeled" and case.label is not None:
        label = load_label(case.label)
        check_grid(image, label)
        classes = class_indices(np.asarray(label)[0], labels, case.label, ignore_value, regions)
        classes[classes == STORED_IGNORED] = len(file_values(labels, regions or {}))
    as_they_are = _readable_by_nnunet(case.images)
    for index, channel in enumerate(np.asarray(image)):
        path = folder / f"images{PARTS[part]}" / f"{case.name}_{index:04d}{ENDING}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if as_they_are:
            shutil.copyfile(case.images[index], path)
        else:
            write_like(channel[None], case.images[0], path)
    if classes is not None:
        write_like(classes[None], case.images[0], folder / f"labels{PARTS[part]}" / f"{case.name}{ENDING}")
    try:
        itk_reader(folder / f"images{PARTS[part]}" / f"{case.name}_0000{ENDING}").ReadImageInformation()
    except RuntimeError as error:
        _remove(case.name, part, folder)
        raise ImageError(
            f"{case.images[0]}: nnU-Net's reader (SimpleITK) cannot open it: {str(error).splitlines()[-1]} Axes that are not at "
            "right angles, as of a tilted CT gantry, must be resampled first."
        ) from None
    return content_hash(as_stored(image))


def _remove(case: str, part: str, folder: Path) -> None:
    for path in (
        *(folder / f"images{PARTS[part]}").glob(f"{glob.escape(case)}_????{ENDING}"),
        folder / f"labels{PARTS[part]}" / f"{case}{ENDING}",
    ):
        path.unlink(missing_ok=True)


def _readable_by_nnunet(images: Sequence[Path]) -> bool:
    """One channel per file, ``.nii.gz``, and headers that agree to the last bit, which nnU-Net asks for."""
    if not all(path.name.endswith(ENDING) for path in images):
        return False
    headers: list[Any] = [nib.load(path) for path in images]
    first = headers[0]
    return all(len(each.shape) <= 3 and np.array_equal(each.affine, first.affine) for each in headers)


def _new_folder(output: Path, dataset_id: int, name: str) -> Path:
    if not (isinstance(dataset_id, int) and 1 <= dataset_id <= MAX_ID):
        raise DatasetError(f"expected dataset_id to be a number from 1 to {MAX_ID}, received {dataset_id!r}.")
    taken = sorted(output.glob(f"Dataset{dataset_id:03d}_*"))
    if taken:
        raise DatasetError(
            f"expected a free number, received dataset_id={dataset_id}, which is that of {taken[0]}. nnU-Net takes each "
            f"number once: choose another, or delete that folder."
        )
    return output / f"Dataset{dataset_id:03d}_{re.sub('[^0-9A-Za-z]+', '', name) or 'Dataset'}"


def _write_declarations(
    folder: Path, dataset: Dataset, labels: Mapping[str, int], split: Split, rejected: Mapping[str, str]
) -> None:
    labeled = [name for name in split.labeled if name not in rejected]
    if not labeled:
        name, reason = next(iter(rejected.items()))
        raise DatasetError(f"{dataset.root}: no labelled case can be exported. The first, {name}: {reason}")
    # a reader takes no case of imagesTs for one of the data set
    exported = {*split.labeled, *split.unlabeled} - set(rejected)
    groups = {case.name: case.group for case in dataset.cases if case.name in exported}
    values = file_values(labels, dataset.regions)
    renumbered: dict[str, Any] = {
        name if index else "background": members if dataset.regions and index else members[0]  # nnU-Net's own name
        for index, (name, members) in enumerate(class_members(labels, dataset.regions).items())
    }
    declared = {
        "name": dataset.name,
        "channel_names": {str(index): name for index, name in enumerate(dataset.channel_names)},
        "labels": renumbered if dataset.ignore_value is None else {**renumbered, IGNORE: len(values)},
        "numTraining": len(labeled),
        "file_ending": ENDING,
        "groups": groups,
        **_terms(dataset),
    }
    if dataset.regions:
        declared["regions_class_order"] = [values.index(labels[name]) for name in dataset.regions]
    _write(folder / "dataset.json", declared)
    if len(split.folds) > 1:
        folds = [{part: [name for name in getattr(fold, part) if name not in rejected] for part in ("train", "val")}
                 for fold in split.folds]  # fmt: skip
        empty = [str(number) for number, fold in enumerate(folds) if not (fold["train"] and fold["val"])]
        if empty:  # else nnU-Net fails in them, or parts the cases anew
            log.warning("Fold %s has no case left to validate or train; the later folds move up.", ", ".join(empty))
        folds = [fold for fold in folds if fold["train"] and fold["val"]]
        if folds:
            _write(folder / "splits_final.json", folds)


def _terms(dataset: Dataset) -> dict[str, Any]:
    """Source and licence, as ``dataset.json`` declares them: they hold for the copy, too."""
    file = dataset.root / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8-sig")) if file.exists() else {}
    return {name: value for name, value in content.items() if name.lower() in TERMS}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
