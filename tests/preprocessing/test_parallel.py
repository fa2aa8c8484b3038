"""Work on many cases ends for all of them, whatever happens to one."""

import os
import signal

import pytest

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
