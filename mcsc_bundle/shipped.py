"""What a packed bundle says about itself, checked before use: its weights are those it was packed with, its code too.

A process imports ``mcsc_bundle`` once, while every packed bundle holds a copy of it. Bundles with the same copy share the
one that came first; a bundle with another copy is refused, since its networks might mean something else by the same
names. So any number of bundles packed by one version of this project run side by side.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
CHECKSUMS = "sha256"  # entry of metadata.json: file of the bundle to the checksum of its bytes


class BundleError(ValueError):
    """A packed bundle that is not what it says it is; the message says what differs and what to do."""


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest(package: Path = PACKAGE) -> str:
    """sha256 over the Python files of a package, by relative path and content."""
    files = {path.relative_to(package).as_posix(): file_digest(path) for path in package.rglob("*.py")}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def check_code(expected: str) -> None:
    """Refuse to go on with another copy of this package than a bundle was packed with.

    Args:
        expected: ``code_digest`` of the bundle's own copy.

    Raises:
        BundleError: another bundle, or another version that lies on the path, was imported first; or files were edited.
    """
    if code_digest() != expected:
        raise BundleError(
            f"expected the code that this bundle was packed with ({expected[:12]}), received {PACKAGE} "
            f"({code_digest()[:12]}): its files were edited, or another bundle or version was imported first. Use the "
            "bundle in a process of its own, started outside of folders that hold another mcsc_bundle; or, if the "
            "edit is meant, pack again."
        )


def check_weights(bundle: Path, path: Path) -> None:
    """Refuse weights that are not those of ``bundle``'s metadata; a folder without checksums passes.

    Args:
        bundle: a packed bundle, or a run folder.
        path: file of weights in it.

    Raises:
        BundleError: the checksum differs.
    """
    metadata = bundle / "configs" / "metadata.json"
    if not metadata.exists():
        return
    checksums = json.loads(metadata.read_text(encoding="utf-8")).get(CHECKSUMS, {})
    expected = checksums.get(path.relative_to(bundle).as_posix())
    if expected is not None and file_digest(path) != expected:
        raise BundleError(
            f"{path}: expected sha256 {expected} as in {metadata.name}, received {file_digest(path)}. The file is "
            "damaged or was exchanged: get the bundle again, or pack it again if the exchange is meant."
        )
