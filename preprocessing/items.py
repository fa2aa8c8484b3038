"""Training items that an application hands over in place of a data set folder: MONAI Label gives image and label paths."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mcsc_bundle.data import StoredVolumes, TwoStreamDataset
from mcsc_bundle.io import case_name
from mcsc_bundle.plan import Plan
from mcsc_bundle.store import CaseStore
from preprocessing.preprocess import preprocess

log = logging.getLogger(__name__)


def two_stream_dataset(
    data: Sequence[Mapping[str, Any]], plan: Plan, store: CaseStore, dataset_dir: str = "", **options: Any
) -> TwoStreamDataset:
    """``TwoStreamDataset`` of stored cases, or of items that are stored first.

    Args:
        data: items with ``case``, or ``{"image": path or paths, "label": path}`` with the label of each labelled one.
        plan, store: as in ``TwoStreamDataset``.
        dataset_dir: where a data set was looked for, for the message.
        **options: of ``TwoStreamDataset``.

    Raises:
        SystemExit: no item, or none with a label that can be used.
    """
    items = stored_items(data, plan, store)
    if not any(item["labeled"] for item in items):
        raise SystemExit(
            f"error: expected a data set in {dataset_dir} or labelled items from an application, received {len(items)} "
            "usable items without a label. Check --dataset_dir."
        )
    return TwoStreamDataset(items, plan, store, **options)


def stored_volumes(data: Sequence[Mapping[str, Any]], plan: Plan, store: CaseStore, **options: Any) -> StoredVolumes:
    """``StoredVolumes`` of stored cases, or of items that are stored first. Arguments as ``two_stream_dataset``."""
    return StoredVolumes(stored_items(data, plan, store), store, plan, **options)


def stored_items(data: Sequence[Mapping[str, Any]], plan: Plan, store: CaseStore) -> list[dict[str, Any]]:
    """The items with the name of their stored case; what cannot be used is named in the log and left out.

    Cases are named by file name and folder, so that files of equal names in two folders stay apart. One that is stored
    as it is now is not stored again.
    """
    raw = [_named(item) for item in data if "case" not in item]
    failed = preprocess(raw, plan, store, workers=1) if raw else {}
    return [dict(item) for item in data if "case" in item] + [item for item in raw if item["case"] not in failed]


def _named(item: Mapping[str, Any]) -> dict[str, Any]:
    images = [item["image"]] if isinstance(item["image"], (str, os.PathLike)) else list(item["image"])
    paths = [str(path) for path in images]
    place = hashlib.sha256(os.path.abspath(paths[0]).encode()).hexdigest()[:8]
    label = item.get("label")
    named = {"case": f"{case_name(paths[0])}-{place}", "image": paths, "labeled": label is not None}
    return named if label is None else {**named, "label": str(label)}
