"""Memory that is there: of the machine, and of a container on a machine that has more."""

from __future__ import annotations

import pytest

from preprocessing import machine
from preprocessing.machine import available_bytes, told_bytes, total_bytes
from preprocessing.planner import default_memory_gb

STAT = "anon 1500000000\nfile 1600000000\ninactive_file 1000000000\nactive_file 500000000\n"


@pytest.fixture
def container(tmp_path, monkeypatch):
    """The folder of the container's files, on a machine of which 16.384 GB are free."""
    (tmp_path / "meminfo").write_text("MemTotal:       32000000 kB\nMemAvailable:   16000000 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("limit", "expected"), [("4096\n", 4096), ("max\n", None), (None, None)])
def test_the_limit_of_a_container_counts(container, limit, expected) -> None:
    if limit is not None:
        (container / "memory.max").write_text(limit)
    assert total_bytes() == expected if expected else total_bytes() > 2**20
    assert available_bytes() == (expected or 16_384_000_000)


def test_a_system_that_does_not_tell_is_taken_for_small(container, monkeypatch) -> None:
    monkeypatch.delattr("os.sysconf")
    assert total_bytes() == 4 * 2**30 and available_bytes() == 16_384_000_000


@pytest.mark.parametrize(
    ("current", "stat", "free"), [(3e9, STAT, 2.5e9), (3e9, "", 1e9), (5e9, "", 0), (1e9, STAT, 4e9)]
)
def test_what_the_container_holds_is_not_free_but_for_files_that_were_read(container, current, stat, free) -> None:
    (container / "memory.max").write_text("4000000000\n")
    (container / "memory.current").write_text(f"{current:.0f}\n")
    (container / "memory.stat").write_text(stat)
    assert available_bytes() == free


def test_a_plan_is_for_half_of_what_the_container_leaves(container) -> None:
    assert default_memory_gb("cpu") == 8  # half of 16.384, but no more than 8
    (container / "memory.max").write_text("4000000000\n")
    (container / "memory.current").write_text("1000000000\n")
    assert default_memory_gb("cpu") == 1.5


def test_a_number_needs_no_name_and_a_word_is_none(tmp_path) -> None:
    (tmp_path / "status").write_text("Name:\tpython 3\nVmRSS:\t     2 kB\nThreads:\t3\n")
    assert told_bytes(tmp_path / "status") == {"VmRSS": 2048, "Threads": 3}
    (tmp_path / "memory.max").write_text("max\n")
    assert told_bytes(tmp_path / "memory.max") == {} == told_bytes(tmp_path / "none")
