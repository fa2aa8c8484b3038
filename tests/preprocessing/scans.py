"""Tiny scans for tests: written in a line, one affine for image and label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from preprocessing.dataset import Dataset

SHAPE = (6, 5, 4)
LABELS = {"0": "background", "1": "left", "2": "right"}


def affine(spacing: tuple[float, ...] = (1.0, 2.0, 3.0), origin: tuple[float, ...] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """A straight RAS grid."""
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def voxels(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Noise in 1..2, another for each seed."""
    return np.random.default_rng(seed).uniform(1, 2, shape).astype(np.float32)


def mask(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Label 1 in one corner voxel, 2 in the opposite slab."""
    label = np.zeros(shape, dtype=np.uint8)
    label[0, 0] = 1
    label[-1] = 2
    return label


def write(path: Path, array: np.ndarray, grid: np.ndarray | None = None) -> Path:
    """A NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine() if grid is None else grid), path)
    return path


def declare(folder: Path, **content: Any) -> Path:
    """``dataset.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def decathlon(folder: Path, labeled: list[str], bare: tuple[str, ...] = (), **content: Any) -> Path:
    """A Decathlon folder; each case has an image of its own, the ``labeled`` ones ``mask()`` as label."""
    for seed, name in enumerate([*labeled, *bare]):
        write(folder / "imagesTr" / f"{name}.nii.gz", voxels(seed))
    for name in labeled:
        write(folder / "labelsTr" / f"{name}.nii.gz", mask())
    items = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in labeled]
    items += [{"image": f"./imagesTr/{name}.nii.gz"} for name in bare]
    return declare(folder, **{"name": "Tiny", "modality": {"0": "MRI"}, "labels": LABELS, "training": items, **content})


def names(dataset: Dataset, labeled: bool) -> list[str]:
    """Of the labelled cases, or of the others."""
    return [case.name for case in dataset.cases if (case.label is not None) == labeled]


def folder_of(
    root: Path, images: list[str], labels: list[str], image_folder: str = "images", label_folder: str = "labels"
) -> Path:
    """Images, each of its own, and masks, in folders of any name."""
    for seed, name in enumerate(images):
        write(root / image_folder / f"{name}.nii.gz", voxels(seed))
    for name in labels:
        write(root / label_folder / f"{name}.nii.gz", mask())
    return root
