"""Files written whole or not at all: what is half-written lies beside its place, under a hidden name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mcsc_bundle.words import first_line


class DiskError(OSError):
    """A file that cannot be written, mostly since the disk is full, or read again; the message names it and what to do."""


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """The place to write a file to, which takes the place of ``path`` at the end: a killed run leaves the old one or the new one.

    Args:
        path: of the file; its folder is made.

    Raises:
        DiskError: it cannot be written. Nothing half-written is left to fill the disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # its suffix stays: it tells some writers the format
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # the latter from torch, blosc2 and SimpleITK, without the cause
        cause = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise DiskError(
            f"{path}: cannot be written ({cause}; {_free(path.parent)}). Make room, or mend the access to it; the same "
            "command goes on."
        ) from error
    finally:
        with suppress(OSError):  # of a folder that is none, which the message has named
            temporary.unlink(missing_ok=True)


def save_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file, see ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _free(folder: Path) -> str:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return f"{shutil.disk_usage(there).free / 1e6:.0f} MB are free there"
