"""Bring every training case to the plan's grid and store it: in parallel, resumable, one bad case set aside."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose

from mcsc_bundle.cascade import PREVIOUS
from mcsc_bundle.files import DiskError
from mcsc_bundle.plan import Plan
from mcsc_bundle.store import CaseStore
from mcsc_bundle.transforms import preprocessing, reason
from mcsc_bundle.words import counted
from preprocessing.parallel import choose_workers, map_cases

log = logging.getLogger(__name__)

HASHING_THREADS = 4  # hashing leaves Python's lock and waits for the disk


def preprocess(
    cases: Sequence[Mapping[str, Any]], plan: Plan, store: CaseStore, workers: int | None = None
) -> dict[str, str]:
    """Store the cases that are not stored as they are now; a killed run goes on where it was.

    Args:
        cases: items ``{"case": name, "image": [paths], "label": path}``. Labels are opened only where named; of a cascade,
            with ``previous``, the mask of the stage before.
        plan: the plan.
        store: where the cases go.
        workers: processes; ``None`` takes what cores, memory and the amount of data suggest.

    Returns:
        Case name and reason of each case that was set aside.
    """
    pending = _pending(cases, store)
    stored = counted(len(cases) - len(pending), "case")
    if pending:
        others = f"; stored already: {stored}" if len(pending) < len(cases) else ""
        log.info("Preprocessing %s%s.", counted(len(pending), "case"), others)
    else:
        log.info("Preprocessed already: %s.", stored)
    files = {item["case"]: _files(item) for item in pending}
    arguments = {item["case"]: (dict(item), plan, store) for item in pending}
    rejected = {}
    with _one_thread():
        for case, result in map_cases(store_case, arguments, choose_workers(files, workers), "Preprocessing"):
            if isinstance(result, DiskError):  # no fault of the case; a training on those that fit would be another one
                raise result
            if result is not None:
                rejected[case] = result if isinstance(result, str) else f"{', '.join(map(str, files[case]))}: {result}"
                log.warning("Set aside %s: %s", case, rejected[case])
    return rejected


def store_case(item: Mapping[str, Any], plan: Plan, store: CaseStore) -> str | None:
    """Preprocess and store one case.

    Args:
        item: as in ``preprocess``.
        plan, store: as in ``preprocess``.

    Returns:
        Why the case cannot be used, in words, or ``None`` if all went well.
    """
    files = {key: item[key] for key in ("image", "label", PREVIOUS) if item.get(key) is not None}
    try:
        ready = _chain(plan)(files)
        label = ready["label"].numpy()[0] if "label" in ready else None
        store.write(item["case"], ready["image"].numpy(), label, _source(item), plan.image_patch_size)
        if PREVIOUS in ready:
            mask, source = ready[PREVIOUS].numpy()[0], _hash([item[PREVIOUS]])
            store.write_previous(item["case"], mask, source, plan.image_patch_size)
    except DiskError:  # no fault of the case
        raise
    except Exception as error:
        return reason(error)
    return None


_chains: dict[str, Compose] = {}


def _chain(plan: Plan) -> Compose:
    """The transforms of the plan last used; making them takes as long as they do on a small case."""
    if plan.data_key not in _chains:
        _chains.clear()
        _chains[plan.data_key] = preprocessing(plan, ("image", "label", PREVIOUS))
    return _chains[plan.data_key]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work in this process is on small images, where handing parts to threads costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pending(cases: Sequence[Mapping[str, Any]], store: CaseStore) -> list[Mapping[str, Any]]:
    stored = [item for item in cases if item["case"] in store]
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        sources = dict(zip((item["case"] for item in stored), pool.map(_source, stored), strict=True))
    return [
        item
        for item in cases
        if not (
            item["case"] in sources
            and store.is_current(item["case"], sources[item["case"]], labeled=item.get("label") is not None)
            and (item.get(PREVIOUS) is None or store.has_previous(item["case"], _hash([item[PREVIOUS]])))
        )
    ]


def _source(item: Mapping[str, Any]) -> str:
    label = item.get("label")
    return _hash(item["image"]) + (f"+{_hash([label])}" if label is not None else "")


def _hash(paths: Iterable[str | Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _files(item: Mapping[str, Any]) -> list[Path]:
    return [Path(path) for path in (*item["image"], *([item["label"]] if item.get("label") is not None else []))]
