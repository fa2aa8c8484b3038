"""Wall time and peak memory of a command with all of its child processes (Linux).

Memory is the sum of the proportional set sizes: a page that several processes share counts once, in parts. ``/proc`` is
read directly, ten times a second, so nothing needs to be installed in either environment.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.1
TAIL = 3000  # characters of a failed command's output


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Args:
        seconds: wall time.
        cpu_seconds: of all processes together, which another load on the machine changes less.
        peak_gb: largest memory of the process tree, in 1e9 bytes.
        processes: most processes at once.
    """

    seconds: float
    cpu_seconds: float
    peak_gb: float
    processes: int


def run(command: Sequence[str], env: Mapping[str, str], log: Path) -> Cost:
    """Run a command to its end and watch its process tree.

    Raises:
        SystemExit: it failed; the message holds the end of its output, all of which is in ``log``.
    """
    peak, most, began = 0, 1, time.perf_counter()
    cpu: dict[int, float] = {}
    with log.open("wb") as output, subprocess.Popen(command, env=env, stdout=output, stderr=output) as process:
        while process.poll() is None:
            tree = _tree(process.pid)
            cpu |= {each: _cpu_seconds(each) or cpu.get(each, 0.0) for each in tree}
            peak, most = max(peak, sum(map(_pss_bytes, tree))), max(most, len(tree))
            time.sleep(INTERVAL_S)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-TAIL:]}")
    return Cost(round(seconds, 2), round(sum(cpu.values()), 1), round(peak / 1e9, 3), most)


def _tree(root: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _pss_bytes(process: int) -> int:
    try:
        match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0


def _cpu_seconds(process: int) -> float:
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
