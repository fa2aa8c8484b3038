"""Where the layouts keep their cases: Medical Segmentation Decathlon, nnU-Net v2, or images and labels matched by name.

Cases without a label are unlabelled cases, wherever they are found: an item without ``label``, a label file that is not
there, an ``imagesUn`` folder, or a key ``unlabeled`` in ``dataset.json``. Images in ``imagesTs`` are never looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mcsc_bundle.io import IMAGE_SUFFIXES, case_name
from mcsc_bundle.passed_over import tell_of_others
from mcsc_bundle.words import counted
from preprocessing.folders import (
    CHANNEL,
    DatasetError,
    Listing,
    by_name,
    channels_by_case,
    find_child,
    has_channel_suffix,
    image_files,
)

log = logging.getLogger(__name__)

LAYOUTS = (
    'a dataset.json with a "training" list (Decathlon), or imagesTr/ and labelsTr/ (nnU-Net), '
    "or images/ and labels/ with equal file names"
)
IMAGE_FOLDERS, LABEL_FOLDERS = ("imagesTr", "images"), ("labelsTr", "labels")


@dataclass(frozen=True)
class Case:
    """One scan.

    Args:
        name: unique in the data set.
        images: one file per channel in order, or one file of all channels.
        label: label map, ``None`` for an unlabelled case.
        group: patient; no split parts the cases of one group. Empty until it is known.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    group: str = ""


def find_cases(root: Path, content: Mapping[str, Any], num_channels: int | None) -> list[Case]:
    """All training cases of a folder, sorted by name.

    Args:
        root: the folder.
        content: its ``dataset.json`` with lower-case keys, empty if it has none.
        num_channels: declared channels; ``None`` if nothing declares them.

    Raises:
        DatasetError: none of the layouts, an item without an image, a label without an image, a file name twice.
    """
    listing = Listing()
    if isinstance(content.get("dataset"), Mapping):  # nnU-Net's list of files kept elsewhere
        entries = [
            {"name": name, **entry} if isinstance(entry, Mapping) else entry
            for name, entry in content["dataset"].items()
        ]
        cases = _listed(root, _items(entries, "dataset"), listing)
    elif "training" in content:
        cases = _listed(root, _items(content["training"], "training"), listing)
    else:
        cases = _matched_by_name(root, str(content.get("file_ending") or ""), num_channels)
    cases += _unlabelled(root, content, cases, num_channels, listing)
    _report_unused(root, cases, listing)
    return sorted(cases, key=lambda case: case.name)


def is_bare(root: Path, content: Mapping[str, Any]) -> bool:
    """Whether a folder is neither the Decathlon's nor nnU-Net's and declares no class: its label files alone tell them."""
    declares = {"training", "dataset", "regions_class_order"} & set(content) or get_close_matches(
        "labels", content, cutoff=0.8
    )
    return not declares and find_child(root, "imagesTr") is None


def _items(entries: Any, key: str) -> list[dict[str, Any]]:
    """Items ``{"image": [paths], "label": path or None, "name"?}``; an item that is only a path has no ``label``."""
    if not isinstance(entries, (list, tuple)):
        raise DatasetError(f'dataset.json: expected "{key}" as a list, received {entries!r}.')
    items = []
    for entry in entries:
        item = {str(k).lower(): v for k, v in entry.items()} if isinstance(entry, Mapping) else {"image": entry}
        if isinstance(entry, Mapping):
            item.setdefault("label", None)
        given, label = item.get("image") or item.get("images"), item.get("label")
        images = list(given) if isinstance(given, (list, tuple)) else [given]
        if (
            not images
            or not all(isinstance(path, str) and path for path in images)
            or not isinstance(label, str | None)
        ):
            raise DatasetError(
                f'dataset.json: expected each item of "{key}" to have the path of an image, and of a label if '
                "there is one, "
                f"received {entry!r}. Complete it, or remove it."
            )
        items.append({**item, "image": images})
    return items


def _listed(root: Path, items: Sequence[Mapping[str, Any]], listing: Listing) -> list[Case]:
    """Cases that ``dataset.json`` lists. One that is only a path has the label of its name in ``labelsTr``."""
    images = [tuple(listing.locate(root, path) for path in item["image"]) for item in items]
    labels = [_label(root, files[0], item, listing) for files, item in zip(images, items, strict=True)]
    gone = [item["label"] for item, label in zip(items, labels, strict=True) if item.get("label") and label is None]
    if gone:
        log.warning(
            "Not there, so that its case is unlabelled: %s of dataset.json, first %s.",
            counted(len(gone), "label file"), gone[0],
        )  # fmt: skip
    names = [case_name(files[0]) for files in images]
    suffixed = has_channel_suffix(names, [case_name(label) for label in labels if label])
    of_their_own = len({label for label in labels if label}) == len(items)
    if of_their_own and len({_name(files, suffixed) for files in images}) < len(set(names)):
        suffixed = False  # what looks like a channel's number is the case's own
    return [
        Case(str(item.get("name") or _name(files, suffixed)), _on_disk(files, listing), label)
        for files, label, item in zip(images, labels, items, strict=True)
    ]


def _label(root: Path, image: Path, item: Mapping[str, Any], listing: Listing) -> Path | None:
    if "label" in item:
        wanted = [listing.locate(root, item["label"])] if item["label"] else []
    else:
        folders = [folder for name in LABEL_FOLDERS if (folder := listing.child(root, name))]
        wanted = [path for folder in folders if (path := listing.child(folder, image.name))]
    return next((path for path in wanted if path.exists()), None)


def _matched_by_name(root: Path, ending: str, num_channels: int | None) -> list[Case]:
    """Cases of an image and a label folder: ``CASE`` with ``CASE``, or ``CASE_0000``... with ``CASE`` (nnU-Net)."""
    image_folder, label_folder = find_child(root, *IMAGE_FOLDERS), find_child(root, *LABEL_FOLDERS)
    if image_folder is None:
        raise DatasetError(f"{root}: expected {LAYOUTS}; received {_some(entry.name for entry in root.iterdir())}.")
    images, labels = by_name(image_files(image_folder, ending)), by_name(image_files(label_folder, ending))
    if not images:
        kinds = ending or ", ".join(IMAGE_SUFFIXES)
        raise DatasetError(
            f"{image_folder}: expected images ({kinds}), received {_some(p.name for p in image_folder.iterdir())}."
        )
    cases = channels_by_case(images, has_channel_suffix(images, labels), num_channels)
    lonely = sorted(set(labels) - set(cases))
    if lonely and f"{lonely[0]}_0000" in images:
        bare = sorted(set(images) & set(labels))
        raise DatasetError(
            f"{images[bare[0]]}: expected a channel number at the end of its name, as {lonely[0]}_0000 and others have one, "
            f"received none ({counted(len(bare), 'such image')}). Rename it to {bare[0]}_0000, or take the number from all."
        )
    if lonely:
        raise DatasetError(
            f"{labels[lonely[0]]}: expected an image of this name in {image_folder}, received none "
            f"({counted(len(lonely), 'such label')}). "
            f"Name image and label alike (CASE or CASE_0000, and CASE), or remove the label."
        )
    return [Case(name, files, labels.get(name)) for name, files in cases.items()]


def _unlabelled(
    root: Path, content: Mapping[str, Any], known: Sequence[Case], num_channels: int | None, listing: Listing
) -> list[Case]:
    """Cases of the keys ``unlabeled`` and ``unlabelled`` and of the folder ``imagesUn``, each file once."""
    suffixed = any(case.name != case_name(case.images[0]) for case in known)
    items = [item for key in ("unlabeled", "unlabelled") for item in _items(content.get(key) or [], key)]
    listed = [tuple(listing.locate(root, path) for path in item["image"]) for item in items]
    in_folder = channels_by_case(by_name(image_files(find_child(root, "imagesUn"))), suffixed, num_channels)
    candidates = [Case(_name(files, suffixed), _on_disk(files, listing), None) for files in listed]
    candidates += [Case(name, files, None) for name, files in in_folder.items()]
    found = {case.images[0].resolve(): case for case in (*candidates, *known)}  # a case in training keeps its label
    return [case for case in found.values() if case not in known]


def _report_unused(root: Path, cases: Sequence[Case], listing: Listing) -> None:
    files = [path for case in cases for path in (*case.images, case.label) if path is not None]
    for names in (IMAGE_FOLDERS, ("imagesUn",), LABEL_FOLDERS):
        if (folder := listing.child(root, *names)) is not None and folder.is_dir():
            tell_of_others(folder, files)
    used = {path.resolve() for case in cases for path in case.images}
    unused = [path for path in image_files(listing.child(root, *IMAGE_FOLDERS)) if path.resolve() not in used]
    if unused:
        log.warning(
            'dataset.json does not list %s of %s: not used; list them under "unlabeled". First: %s.',
            *(counted(len(unused), "image"), unused[0].parent, unused[0].name),
        )


def _name(images: Sequence[Path], suffixed: bool) -> str:
    name = case_name(images[0])
    match = CHANNEL.fullmatch(name) if suffixed or len(images) > 1 else None
    return match["case"] if match else name


def _on_disk(images: tuple[Path, ...], listing: Listing) -> tuple[Path, ...]:
    """The listed files; for one that is not there, its channels, if these are."""
    return images if len(images) > 1 or images[0].exists() else listing.channels(images[0]) or images


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return (", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")) if ordered else "an empty folder"
