"""Work on many cases ends for all of them, whatever happens to one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from preprocessing import machine, parallel
from preprocessing.parallel import choose_workers, map_cases


def work(number, victim):
    if number == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    if number < 0:
        raise ValueError("negative")
    return number * number


def test_results_and_exceptions_come_by_case():
    results = dict(map_cases(work, {"a": (3, None), "b": (-1, None)}, 1, "Testing"))
    assert results["a"] == 9 and isinstance(results["b"], ValueError)


def test_a_killed_process_costs_one_case():
    results = dict(map_cases(work, {str(number): (number, 1) for number in range(5)}, 2, "Testing"))
    error = results.pop("1")
    assert isinstance(error, MemoryError) and "killed" in str(error)
    assert results == {"0": 0, "2": 4, "3": 9, "4": 16}


@pytest.mark.parametrize(("asked", "cases", "expected"), [(1, 9, 1), (4, 9, 4), (4, 2, 2), (0, 9, 1), (None, 9, 1)])
def test_workers_asked_for_are_kept_and_small_work_needs_none(tmp_path, asked, cases, expected):
    (tmp_path / "scan.nii").write_bytes(b"x" * 100)
    assert choose_workers({str(n): [tmp_path / "scan.nii"] for n in range(cases)}, asked) == expected


def test_memory_bounds_the_processes(tmp_path, monkeypatch):
    (tmp_path / "scan.nii").write_bytes(b"x" * 1000)
    files = {str(n): [tmp_path / "scan.nii"] for n in range(9)}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(parallel, "WORTH_PROCESSES_BYTES", 0)
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    for kilobytes, expected in ((10**6, 8), (72, 3), (1, 1)):
        (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {kilobytes} kB\n")
        assert choose_workers(files) == expected


def process(_number):
    time.sleep(0.2)  # long enough for the other worker to take its share
    return os.getpid()


FORKED = """
import torch  # once, before the fork
from preprocessing.parallel import allow_fork, map_cases
from tests.preprocessing.test_parallel import process, work
allow_fork()
"""
STAY = """
arguments = {case: (number,) for number, case in enumerate("abcd")}
one, other = ({result for _, result in map_cases(process, arguments, 2, "Testing")} for _ in range(2))
assert len(one) == 2 and one == other, (one, other)
"""
KILLED = """
for _ in range(2):
    results = dict(map_cases(work, {case: (number, 2) for number, case in enumerate("abcdef")}, 2, "Testing"))
    assert isinstance(results.pop("c"), MemoryError)
    assert results == {"a": 0, "b": 1, "d": 9, "e": 16, "f": 25}, results
"""


def in_a_new_process(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_forked_workers_stay_for_the_next_stage():
    in_a_new_process(FORKED + STAY)


@pytest.mark.slow
def test_a_killed_forked_worker_costs_one_case():
    in_a_new_process(FORKED + KILLED)
