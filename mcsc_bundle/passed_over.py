"""Scans in a folder of images or labels that are none of the files we read: said, so that nobody misses them in the end."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from mcsc_bundle.formats import IMAGE_SUFFIXES, image_suffix
from mcsc_bundle.words import listed, warn_once

log = logging.getLogger(__name__)

OTHER_FORMATS = (".hdr", ".img", ".dcm", ".ima", ".mgz", ".mgh", ".mnc", ".nhdr", ".jpg", ".jpeg", ".npy", ".npz")


def tell_of_others(folder: Path, used: Iterable[Path] = ()) -> None:
    """Name scans of other formats, and folders that hold scans, in a folder whose files are the cases.

    Args:
        folder: of images or labels.
        used: files that are cases, in folders below this one.
    """
    below = {parent for path in used for parent in path.parents}
    others = [path.name for path in sorted(folder.iterdir()) if path not in below and _is_scan(path)]
    if others:
        kinds = ", ".join(IMAGE_SUFFIXES)
        warn_once(log, f"{folder}: not used, as images are files that end in {kinds}: {listed(others)}.")


def _is_scan(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(file.is_file() and (image_suffix(file) or _is_scan(file)) for file in path.iterdir())
    return path.suffix.lower() in OTHER_FORMATS
