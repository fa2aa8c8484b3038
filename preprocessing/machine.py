"""How much memory there is: the machine's, or what the container that this process runs in may take of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")  # Linux's control groups, version 2; outside a container it holds no limit

UNKNOWN = 4 * 2**30  # bytes; taken where the system does not tell


def total_bytes() -> int:
    """Bytes of memory that the machine has, or its container may take."""
    if not hasattr(os, "sysconf"):  # Windows
        return UNKNOWN
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, told_bytes(CONTAINER / "memory.max").get("", machine))


def available_bytes() -> int:
    """Bytes that new processes may take without swapping; the total where the system does not tell.

    What Linux calls available, and no more than the container's limit leaves; files that were read and are kept in memory count
    as free in both.
    """
    free = told_bytes(MEMINFO).get("MemAvailable", total_bytes())
    limit = told_bytes(CONTAINER / "memory.max").get("")
    if limit is None:
        return free
    told = told_bytes(CONTAINER / "memory.current") | told_bytes(CONTAINER / "memory.stat")
    used = told.get("", 0) - told.get("active_file", 0) - told.get("inactive_file", 0)
    return max(0, min(free, limit - max(0, used)))


def told_bytes(file: Path) -> dict[str, int]:
    """Bytes by name, from lines of Linux such as ``MemAvailable: 5 kB``, ``anon 5120`` or ``5120``, whose name is empty.

    Nothing where there is no such file: no Linux, or no container.
    """
    try:
        text = file.read_text()
    except OSError:
        return {}
    lines = re.findall(r"^(?:([A-Za-z]\w*):?\s+)?(\d+)( kB)?$", text, re.MULTILINE)
    return {name: int(number) * (1024 if unit else 1) for name, number, unit in lines}
