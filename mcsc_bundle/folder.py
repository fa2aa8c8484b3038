"""The images of a folder as inference cases."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mcsc_bundle.io import IMAGE_SUFFIXES, case_name, image_suffix

log = logging.getLogger(__name__)

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
DATASET_FOLDERS = ("imagesTs", "imagesTr", "images")  # of a data set folder, the first that holds images


class FolderError(ValueError):
    """A folder that holds no images, or two of one case; the message says what to do."""


def find_cases(dataset_dir: str | Path, channels: int = 1) -> list[dict[str, Any]]:
    """Items ``{"case": name, "image": [paths, one per channel]}`` in the order of the names.

    Files are channels of one case where they are named as in nnU-Net (``CASE_0000``, ``CASE_0001``, ...): for several
    channels if any file is, for one channel if all are ``_0000``. Otherwise each file is a case.

    Args:
        dataset_dir: folder of images, or of a data set; then its test images are taken if it has any, else its training
            images.
        channels: of the network.

    Raises:
        FolderError: no such folder, no image in it, or two files for one case.
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
    named = [CHANNEL.fullmatch(case_name(path)) for path in files]
    if channels > 1:
        grouped = any(match and match["channel"] == "0000" for match in named)
    else:
        grouped = all(match and match["channel"] == "0000" for match in named)
    cases: dict[str, list[Path]] = defaultdict(list)
    for path, match in zip(files, named, strict=True):
        cases[match["case"] if grouped and match else case_name(path)].append(path)
    for case, paths in cases.items():
        if not grouped and len(paths) > 1:
            raise FolderError(
                f"{folder}: expected one file for case {case}, found {[path.name for path in paths]}. Keep one."
            )
    return [{"case": case, "image": [str(path) for path in sorted(cases[case])]} for case in sorted(cases)]


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
    return sorted(path for path in visible if image_suffix(path) is not None and path.is_file())
