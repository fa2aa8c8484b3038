"""Data sets with an ignore label made from a completely labelled one, as nnU-Net's integration tests make theirs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

ANNOTATED_SHARE = 0.2  # of the slices of the last two axes


def derive(dataset: Path, folder: Path, ignore: bool = False, seed: int = 0) -> Path:
    """A Decathlon folder whose images are those of ``dataset``.

    Args:
        dataset: Decathlon folder with labels 0, 1, ... without gaps.
        folder: where to.
        ignore: keep the labels of some slices; everything else gets the ignore label.
        seed: decides the slices.
    """
    content = json.loads((dataset / "dataset.json").read_text())
    rng = np.random.default_rng(seed)
    (folder / "labels").mkdir(parents=True)
    for entry in (*content["training"], *content.get("test", ())):
        if isinstance(entry, dict):
            entry["image"] = os.path.abspath(dataset / entry["image"])
        if isinstance(entry, dict) and "label" in entry:
            scan: Any = nib.load(dataset / entry["label"])
            label = np.asarray(scan.dataobj).astype(np.uint8)
            if ignore:
                label = np.where(annotated(label.shape, rng), label, len(content["labels"]))
            entry["label"] = f"labels/{Path(entry['label']).name}"
            nib.save(nib.Nifti1Image(label.astype(np.uint8), None, scan.header), folder / entry["label"])
    labels = {name: int(value) for value, name in content["labels"].items()}
    content["labels"] = {**labels, "ignore": len(labels)} if ignore else labels
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def annotated(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Where a random share of the slices of the last two axes lies; the middle ones are among them."""
    inside = np.zeros(shape, bool)
    for axis in (-1, -2):
        count = max(1, round(ANNOTATED_SHARE * shape[axis]))
        kept = {shape[axis] // 2, *rng.choice(shape[axis], count, replace=False).tolist()}
        np.moveaxis(inside, axis, 0)[sorted(kept)] = True
    return inside
