"""The same work on many cases: in this process, or dealt out to a few, where one that is killed costs one case."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocessing.machine import available_bytes

log = logging.getLogger(__name__)

WORTH_PROCESSES_BYTES = 256 * 2**20  # below this much to read, a process takes longer to start than to help
MEMORY_PER_FILE_BYTE = 24  # compressed 16-bit voxels become float32 (about 6 times as much), held up to four times
MAX_WORKERS = 16

KILLED = "its process was killed, most likely for lack of memory: use fewer workers, or crop the scan"


def map_cases(
    function: Callable[..., Any], arguments: Mapping[str, Sequence[Any]], workers: int, title: str
) -> Iterator[tuple[str, Any]]:
    """Call ``function(*arguments[case])`` for each case and yield ``(case, result)`` as they end, in any order.

    At most ``workers`` cases are in memory at once. A progress bar shows if it takes more than 5 seconds.

    Args:
        function: importable by name (processes are spawned); an exception it raises is yielded as the result.
        arguments: by case.
        workers: processes; 1 works in this process.
        title: of the progress bar.

    Yields:
        Case and result. A case whose process was killed (out of memory) gets a ``MemoryError`` as its result: those
        that were in work with it are tried again one by one, to tell which it was.
    """
    done = _in_processes(function, arguments, workers) if workers > 1 else _in_turn(function, arguments)
    yield from tqdm(done, total=len(arguments), desc=title, delay=5, unit="case", disable=None)


def choose_workers(files: Mapping[str, Sequence[Path]], workers: int | None = None) -> int:
    """How many processes to use: as many as the cores, the memory and the amount of work make sensible.

    Args:
        files: what each case reads.
        workers: the user's choice, kept unless there are fewer cases; ``None`` decides here.
    """
    if workers is not None:
        return max(1, min(workers, len(files)))
    sizes = [sum(path.stat().st_size for path in paths if path.exists()) for paths in files.values()]
    if sum(sizes) < WORTH_PROCESSES_BYTES:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, available_bytes() // (MEMORY_PER_FILE_BYTE * max(sizes)), len(files), MAX_WORKERS))


def allow_fork() -> None:
    """Say that this process has done nothing but imports, so that its first workers may be forked from it.

    They then start at once and share what is imported; torch and MONAI take seconds and 0.4 GB in each process that
    imports them itself. They stay for later calls of ``map_cases``.
    """
    _forked.allowed = sys.platform == "linux"


@dataclass
class _Forked:
    """The workers forked from this process, if it may have any."""

    allowed: bool = False
    workers: int = 0
    pool: ProcessPoolExecutor | None = None


_forked = _Forked()


def _in_turn(function: Callable[..., Any], arguments: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Any]]:
    _forked.allowed = False  # what is called may start threads, which a fork would lose
    for case, given in arguments.items():
        yield case, _attempt(function, *given)


def _in_processes(
    function: Callable[..., Any], arguments: Mapping[str, Sequence[Any]], workers: int
) -> Iterator[tuple[str, Any]]:
    remaining = dict(arguments)
    while remaining:
        for case, result in _until_broken(function, remaining, workers):
            del remaining[case]
            yield case, result
        suspects = list(remaining)[:workers]  # cases start in order, so these were in work when the pool broke
        for case in suspects:
            alone = dict(_until_broken(function, {case: remaining.pop(case)}, 1))
            yield case, alone.get(case, MemoryError(KILLED))


def _until_broken(
    function: Callable[..., Any], arguments: Mapping[str, Sequence[Any]], workers: int
) -> Iterator[tuple[str, Any]]:
    """Results until all cases are done or a process is killed."""
    waiting = iter(list(arguments.items()))  # a copy, as the caller takes out what is done
    with _pool(workers) as pool:
        running: dict[Future, str] = {}
        try:
            while True:
                while len(running) < workers and (entry := next(waiting, None)):
                    running[pool.submit(_attempt, function, *entry[1])] = entry[0]
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except (KeyboardInterrupt, GeneratorExit):  # nobody waits for the cases in work, so neither does the pool
            _forked.pool = None
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except BrokenProcessPool:
            _forked.pool = None
            log.warning(
                "A process was killed while working on one of %s; trying these one by one.", ", ".join(running.values())
            )


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Workers forked from this process, where that is allowed; else spawned: forking after torch or a data loader can hang."""
    if _forked.allowed:
        _forked.allowed, _forked.workers = False, workers
        _forked.pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_begin_worker)
    if _forked.pool is not None and workers <= _forked.workers:
        yield _forked.pool
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker) as pool:
        yield pool


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends this one
    import torch

    torch.set_num_threads(1)


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result, or the exception as a value: what one case raises must not end the others."""
    try:
        return function(*arguments)
    except Exception as error:
        return error
