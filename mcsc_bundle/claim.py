"""One training at a time in a folder: two would overwrite each other's checkpoint and mix their logs, in silence."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE = ".training"
TAKEN = (BlockingIOError, PermissionError)  # what POSIX lets a lock answer that another process holds

_held: dict[Path, IO[str]] = {}


class ClaimError(RuntimeError):
    """Another process trains in the folder; the message says which, and what to do."""


def claim(folder: str | os.PathLike) -> None:
    """Keep other processes from training in a folder until this one ends, however it ends.

    A second claim by the same process passes. The lock is the kernel's, so that a killed process leaves none behind; on file
    systems without locks nothing is kept. Forked loader workers do not hold it, as they would with ``flock``.

    Args:
        folder: of the models; it is made.

    Raises:
        ClaimError: another process has it.
    """
    folder = Path(folder).resolve()
    if fcntl is None or folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / FILE).open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except TAKEN:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ClaimError(
            f"expected no other training in {folder}, found that {holder} trains there. Wait for it, end it, or choose "
            "another output_dir."
        ) from None
    except OSError:
        file.close()
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _held[folder] = file  # open until the process ends: closing it would give the lock away
