"""Data sets with an ignore label, with regions, or with both, made from a plain one (nnU-Net's integration tests do so too)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

ANNOTATED_SHARE = 0.2  # of the slices of the last two axes


def derive(dataset: Path, folder: Path, ignore: bool = False, regions: bool = False, seed: int = 0) -> Path:
    """A Decathlon folder whose images are those of ``dataset``.

    Args:
        dataset: Decathlon folder with labels 0, 1, ... without gaps.
        folder: where to.
        ignore: keep the labels of some slices; everything else gets the ignore label.
        regions: in place of each label, itself and all lower ones: one in the other, the highest value painted first.
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
    declared: dict[str, Any] = dict(labels)
    if regions:
        outer = sorted((value for value in labels.values() if value), reverse=True)
        declared = {"background": 0, **{f"up to {value}": list(range(1, value + 1)) for value in outer}}
        content["regions_class_order"] = outer
    content["labels"] = {**declared, "ignore": len(labels)} if ignore else declared
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
