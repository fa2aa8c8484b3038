"""Tiny images with true affines."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def make_affine(codes: str = "RAS", spacing: tuple[float, ...] = (1.0, 1.0, 1.0), degrees: float = 0.0) -> np.ndarray:
    """Axis codes, spacing in mm, and a rotation about the scanner's first axis."""
    directions = np.zeros((3, 3))
    for column, code in enumerate(codes):
        row, sign = AXES[code]
        directions[row, column] = sign
    angle = np.deg2rad(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ directions * spacing, (5.0, -7.0, 11.0)
    return affine


def blobs(shape: tuple[int, ...], classes: int = 3) -> np.ndarray:
    """Class indices: background, and boxes inside one another."""
    label = np.zeros(shape, np.uint8)
    for index in range(1, classes):
        label[tuple(slice(size * index // (2 * classes), size - size * index // (2 * classes)) for size in shape)] = (
            index
        )
    return label


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> Path:
    """Write a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, make_affine() if affine is None else affine), path)
    return path


def save_pair(folder: Path, case: str, shape: tuple[int, ...] = (20, 22, 12), affine: np.ndarray | None = None) -> dict:
    """An image that shows its label, both as files; the item that preprocessing takes."""
    label = blobs(shape)
    image = (label * 10 + 1 + np.random.default_rng(0).random(shape)).astype(np.float32)
    paths = save(image, folder / f"{case}.nii.gz", affine), save(label, folder / f"{case}_label.nii.gz", affine)
    return {"case": case, "image": [str(paths[0])], "label": str(paths[1])}


def drawn(text: str) -> torch.Tensor:
    """A mask ``(1, rows, columns, 1)`` from rows of digits."""
    return torch.tensor([[int(digit) for digit in row] for row in text.split()], dtype=torch.uint8)[None, :, :, None]
