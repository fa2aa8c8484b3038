"""A folder of scans as a list of cases: Medical Segmentation Decathlon, nnU-Net v2, or images and labels matched by name.

Cases without a label are unlabelled cases, wherever they are found: an item without ``label``, a label file that is not
there, an ``imagesUn`` folder, or a key ``unlabeled`` in ``dataset.json``. Images in ``imagesTs`` are never used here.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcsc_bundle.io import IMAGE_SUFFIXES, ImageError, case_name, load_image
from preprocessing.declared import declared_channels, declared_labels, patient_groups, read_declaration
from preprocessing.folders import (
    CHANNEL,
    DatasetError,
    by_name,
    channels_by_case,
    find_child,
    has_channel_suffix,
    image_files,
    locate,
)

__all__ = ["Case", "Dataset", "DatasetError", "read_dataset"]

log = logging.getLogger(__name__)

LAYOUTS = (
    'a dataset.json with a "training" list (Decathlon), or imagesTr/ and labelsTr/ (nnU-Net), or images/ and labels/ with '
    "equal file names"
)
DECLARE = (
    'Intensities are then normalised per image (z-score). For CT, or to name classes, write a dataset.json: {"channel_names": '
    '{"0": "CT"}, "labels": {"background": 0, "tumour": 1}}.'
)


@dataclass(frozen=True)
class Case:
    """One scan.

    Args:
        name: unique in the data set.
        images: one file per channel in order, or one file of all channels.
        label: label map, ``None`` for an unlabelled case.
        group: patient; cases of one group never part in a split.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    group: str


@dataclass(frozen=True)
class Dataset:
    """What a folder offers for training; no image was opened for it.

    Args:
        name: from ``dataset.json``, or the folder's name.
        root: the folder.
        channel_names: one per channel, in order.
        labels: class name to value in the label files, background (0) first. Empty if nothing declares them: the
            fingerprint then names the values in the labelled cases.
        cases: sorted by name, each name once.
    """

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    cases: tuple[Case, ...]


def read_dataset(folder: str | os.PathLike) -> Dataset:
    """Find the cases of a data set folder. File and folder names match in any letter case.

    Args:
        folder: the data set, or its ``dataset.json``.

    Raises:
        DatasetError: no such folder, no case or no labelled case in it, no labels declared in ``dataset.json``, a case name
            twice, a label without an image, labels of a kind that is not supported.
    """
    root = Path(folder)
    root = root.parent if root.name.lower() == "dataset.json" else root
    if not root.is_dir():
        raise DatasetError(
            f"expected a data set folder, received {root}, which is not a folder. Give the path of {LAYOUTS}."
        )
    file = find_child(root, "dataset.json")
    content = read_declaration(file) if file else {}
    labels = declared_labels(content, file) if file else {}
    channels = declared_channels(content)
    training = _listing(content, file)
    cases = _listed(root, training) if training is not None else _matched_by_name(root, content, len(channels) or None)
    cases += _unlabelled(root, content, cases, len(channels) or None)
    channels = channels or _unnamed_channels(root, cases)
    groups = patient_groups([case.name for case in cases], content, file or root)
    cases = [dataclasses.replace(case, group=groups[case.name]) for case in sorted(cases, key=lambda case: case.name)]
    dataset = Dataset(str(content.get("name") or root.resolve().name), root, channels, labels, tuple(cases))
    _check(dataset)
    _report(dataset)
    return dataset


def _listing(content: Mapping[str, Any], file: Path | None) -> list[dict[str, Any]] | None:
    """Training items of ``dataset.json`` as ``{"image", "label"?, "name"?}``, or None if it lists none."""
    if isinstance(content.get("dataset"), Mapping):  # nnU-Net: files elsewhere than in imagesTr
        return [
            {"name": str(name), "image": entry.get("images"), "label": entry.get("label")}
            for name, entry in content["dataset"].items()
        ]
    if "training" not in content:
        return None
    return _items(content["training"], "training", file)


def _items(entries: Any, key: str, file: Path | None) -> list[dict[str, Any]]:
    if not isinstance(entries, (list, tuple)):
        raise DatasetError(f'{file}: expected "{key}" as a list, received {entries!r}.')
    items = []
    for entry in entries:
        item = (
            {str(k).lower(): v for k, v in entry.items()}
            if isinstance(entry, Mapping)
            else {"image": entry, "label": ...}
        )
        if not item.get("image") or not isinstance(item["image"], (str, list)):
            raise DatasetError(
                f'{file}: expected each item of "{key}" to name an image, received {entry!r}; add it or remove the item.'
            )
        items.append(item)
    return items


def _listed(root: Path, items: Sequence[Mapping[str, Any]]) -> list[Case]:
    """Cases that ``dataset.json`` lists. An item that is only a path has its label in ``labelsTr``, if there."""
    paths = [tuple(locate(root, image) for image in _as_list(item["image"])) for item in items]
    label_files = by_name(image_files(find_child(root, "labelsTr", "labels")))
    labels = [
        label_files.get(case_name(images[0]))
        if item.get("label") is ...
        else item.get("label") and locate(root, item["label"])
        for images, item in zip(paths, items, strict=True)
    ]
    suffixed = has_channel_suffix(
        [case_name(images[0]) for images in paths], [case_name(label) for label in labels if label]
    )
    gone = [label for label in labels if label and not label.exists()]
    if gone:
        log.warning(
            "%d listed label files are not there, so their cases are unlabelled; first: %s.", len(gone), gone[0]
        )
    return [
        Case(
            str(item.get("name") or _name(images, suffixed)),
            _on_disk(images),
            label if label and label.exists() else None,
            "",
        )
        for images, label, item in zip(paths, labels, items, strict=True)
    ]


def _matched_by_name(root: Path, content: Mapping[str, Any], num_channels: int | None) -> list[Case]:
    """Cases of ``imagesTr`` and ``labelsTr``, or ``images`` and ``labels``, matched by name (nnU-Net's names, or equal ones)."""
    ending = str(content.get("file_ending") or "")
    image_folder, label_folder = find_child(root, "imagesTr", "images"), find_child(root, "labelsTr", "labels")
    if image_folder is None:
        raise DatasetError(
            f"{root}: expected {LAYOUTS}; received a folder with {_some(entry.name for entry in root.iterdir())}."
        )
    images, labels = by_name(image_files(image_folder, ending)), by_name(image_files(label_folder, ending))
    if not images:
        raise DatasetError(
            f"{image_folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none named *{ending}."
        )
    cases = channels_by_case(images, has_channel_suffix(images, labels), num_channels)
    lonely = sorted(set(labels) - set(cases))
    if lonely:
        raise DatasetError(
            f"{labels[lonely[0]]}: expected an image of the same name in {image_folder}, found none; {len(lonely)} such labels. "
            f"Name image and label alike (image: CASE or CASE_0000), or remove the label."
        )
    return [Case(name, files, labels.get(name), "") for name, files in cases.items()]


def _unlabelled(root: Path, content: Mapping[str, Any], known: Sequence[Case], num_channels: int | None) -> list[Case]:
    """Cases of the keys ``unlabeled``/``unlabelled`` and of the folder ``imagesUn``, without those already known."""
    suffixed = any(
        CHANNEL.fullmatch(case_name(case.images[0])) and case.name != case_name(case.images[0]) for case in known
    )
    items = [
        item
        for key in ("unlabeled", "unlabelled")
        for item in _items(content.get(key) or [], key, root / "dataset.json")
    ]
    listed = [tuple(locate(root, image) for image in _as_list(item["image"])) for item in items]
    suffixed = suffixed or (not known and has_channel_suffix([case_name(images[0]) for images in listed], []))
    in_folder = channels_by_case(by_name(image_files(find_child(root, "imagesUn"))), suffixed, num_channels)
    cases = [Case(_name(images, suffixed), _on_disk(images), None, "") for images in listed]
    cases += [Case(name, images, None, "") for name, images in in_folder.items()]
    taken = {case.images[0].resolve() for case in known}
    fresh = []
    for case in cases:
        if case.images[0].resolve() not in taken:
            taken.add(case.images[0].resolve())
            fresh.append(case)
    return fresh


def _unnamed_channels(root: Path, cases: Sequence[Case]) -> tuple[str, ...]:
    """Names for channels that nothing declares: ``image``, or ``image_0``, ``image_1``... as many as the first case has."""
    count = max((len(case.images) for case in cases), default=1)
    if count == 1 and cases:
        count = _channels_in(cases[0].images[0])
    log.warning("%s declares no channels. %s", root, DECLARE)
    return ("image",) if count == 1 else tuple(f"image_{index}" for index in range(count))


def _channels_in(path: Path) -> int:
    try:
        return int(load_image(path).shape[0])
    except ImageError:
        return 1  # the fingerprint sets this case aside with the reason


def _name(images: Sequence[Path], suffixed: bool) -> str:
    name = case_name(images[0])
    match = CHANNEL.fullmatch(name) if suffixed or len(images) > 1 else None
    return match["case"] if match else name


def _on_disk(images: tuple[Path, ...]) -> tuple[Path, ...]:
    """The listed files; for one that is not there, its channels ``_0000``, ``_0001``... (nnU-Net v1), if these are."""
    if len(images) > 1 or images[0].exists():
        return images
    name = case_name(images[0])
    channels = [
        path
        for path in image_files(images[0].parent)
        if (m := CHANNEL.fullmatch(case_name(path))) and m["case"] == name
    ]
    return tuple(channels) or images


def _check(dataset: Dataset) -> None:
    root = dataset.root
    twice = [name for name, count in Counter(case.name for case in dataset.cases).items() if count > 1]
    if twice:
        files = [str(case.images[0]) for case in dataset.cases if case.name == twice[0]]
        raise DatasetError(
            f"{root}: expected each case name once, received {twice[0]!r} for {' and '.join(files)}; rename or remove one."
        )
    tests = [
        case.images[0] for case in dataset.cases if any(p.name.lower() == "imagests" for p in case.images[0].parents)
    ]
    if tests:
        raise DatasetError(
            f"{tests[0]}: imagesTs holds test images, which are never trained on. Move it to imagesUn to use it without a label."
        )
    if not dataset.cases:
        raise DatasetError(f"{root}: the data set is empty. Expected {LAYOUTS}.")
    if not any(case.label for case in dataset.cases):
        raise DatasetError(
            f"{root}: expected at least one labelled case, received {len(dataset.cases)} cases and no label file. "
            f"Put label maps into labelsTr/ (or labels/) under the images' names, or correct the paths in dataset.json."
        )


def _report(dataset: Dataset) -> None:
    labeled = sum(case.label is not None for case in dataset.cases)
    groups = {case.group for case in dataset.cases}
    log.info("%s: %d labelled and %d unlabelled cases.", dataset.name, labeled, len(dataset.cases) - labeled)
    shared = next((case for case in dataset.cases if case.group != case.name), None)
    if len(groups) < len(dataset.cases) and shared:
        log.info(
            'The cases are of %d patients (%s belongs to %s), never parted in a split; "groups" in dataset.json can say otherwise.',
            len(groups),
            shared.name,
            shared.group,
        )


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "") if ordered else "nothing in it"
