"""The images of a folder as inference cases."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mcsc_bundle.io import IMAGE_SUFFIXES, case_name, image_suffix
from mcsc_bundle.passed_over import tell_of_others

log = logging.getLogger(__name__)

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
DATASET_FOLDERS = ("imagesTs", "imagesTr", "images")  # of a data set folder, the first that holds images


class FolderError(ValueError):
    """A folder that holds no images; the message says what to do."""


def find_cases(dataset_dir: str | Path, channels: int = 1) -> list[dict[str, Any]]:
    """Items ``{"case": name, "image": [paths, one per channel]}`` in the order of the names.

    Files are channels of one case where they are named as in nnU-Net (``CASE_0000``, ``CASE_0001``, ...): for several
    channels if any file is, for one channel if all are ``_0000``. Otherwise each file is a case. A channel that is not
    there is listed where it should be, so that reading the case names it; a case of several files that are no channels
    has an ``error`` instead. So a wrong case is set aside by itself.

    Args:
        dataset_dir: folder of images, or of a data set; then its test images are taken if it has any, else its training
            images.
        channels: of the network.

    Raises:
        FolderError: no such folder, or no image in it.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise FolderError(
            f"dataset_dir: expected a folder of images, received {folder}, which is none. Give it as --dataset_dir."
        )
    files = _images(folder)
    for name in DATASET_FOLDERS:
        if not files and (files := _images(folder / name)):
            log.info("%s is a data set; taking its %s.", folder, name)
    if not files:
        raise FolderError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none. Check --dataset_dir.")
    tell_of_others(files[0].parent)
    named = [CHANNEL.fullmatch(case_name(path)) for path in files]
    if channels > 1:
        grouped = any(match and match["channel"] == "0000" for match in named)
    else:
        grouped = all(match and match["channel"] == "0000" for match in named)
    if channels == 1 and not grouped and (other := next((match for match in named if match), None)):
        log.info("Each file is a case, as the networks have one channel: %s is not taken for one of several.", other[0])
    in_parts = any(match and int(match["channel"]) > 0 for match in named)
    cases: dict[str, list[tuple[int | None, Path]]] = defaultdict(list)
    for path, match in zip(files, named, strict=True):
        if grouped and match:
            cases[match["case"]].append((int(match["channel"]), path))
        else:
            cases[case_name(path)].append((None, path))
    return [_item(case, cases[case], channels, in_parts) for case in sorted(cases)]


def _item(case: str, found: list[tuple[int | None, Path]], channels: int, in_parts: bool) -> dict[str, Any]:
    """The case of one file, or of the channels that are there; ``in_parts`` if other cases have a file for each channel."""
    names = sorted(path.name for _, path in found)
    numbers = [number for number, _ in found]
    if len(found) > 1 and (None in numbers or len(set(numbers)) < len(numbers)):
        paths = [str(path) for _, path in found[:1]]
        return {"case": case, "image": paths, "error": f"expected one file for case {case}, found {names}. Keep one."}
    if numbers == [None] or (numbers == [0] and not in_parts):  # one file may hold all channels
        return {"case": case, "image": [str(found[0][1])]}
    there = {number: path for number, path in found if number is not None}
    count = max(channels, 1 + max(there))
    return {
        "case": case,
        "image": [str(there.get(index) or _beside(found[0][1], case, index)) for index in range(count)],
    }


def _beside(path: Path, case: str, index: int) -> Path:
    return path.with_name(f"{case}_{index:04d}{path.name[-len(image_suffix(path) or '') :]}")


def find_cases_or_exit(dataset_dir: str | Path, channels: int = 1) -> list[dict[str, Any]]:
    """``find_cases`` for configs: a user's mistake ends the program with its message instead of a traceback."""
    try:
        return find_cases(dataset_dir, channels)
    except FolderError as error:
        raise SystemExit(f"error: {error}") from None


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    # A link to a file that is gone is listed: reading it says so, while leaving it out would say nothing.
    return sorted(path for path in visible if image_suffix(path) and (path.is_file() or _dangling(path)))


def _dangling(path: Path) -> bool:
    return path.is_symlink() and not path.exists()
