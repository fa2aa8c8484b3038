"""What a labelled case must be, in training as at inference: image and label on one grid, label values that are declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from torch import Tensor

from mcsc_bundle.io import ImageError, same_grid
from mcsc_bundle.labels import STORED_IGNORED, file_values


def check_grid(image: MetaTensor, label: MetaTensor) -> None:
    """Raises ``ImageError`` if image and label lie on different grids."""
    if image.shape[1:] != label.shape[1:]:
        raise ImageError(
            f"{file_of(label)}: expected the image's shape {tuple(image.shape[1:])}, received {tuple(label.shape[1:])}. "
            f"Resample the label onto the image's grid ({file_of(image)})."
        )
    if not same_grid(image, label):
        ours, theirs = (np.round(np.asarray(part.affine), 4).tolist() for part in (image, label))
        raise ImageError(
            f"{file_of(label)}: expected the image's affine {ours} ({file_of(image)}), received {theirs}. "
            f"If the voxels match, copy the image's header to the label; else resample the label."
        )


def class_indices(
    label: np.ndarray,
    labels: Mapping[str, int],
    file: str | Path,
    ignore_value: int | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> np.ndarray:
    """Label values as positions in ``labels`` (of regions, in their values), uint8; ``STORED_IGNORED`` for ``ignore_value``.

    Raises:
        ImageError: values that are not declared.
    """
    declared = file_values(labels, regions or {})
    values = np.array([*declared, *([] if ignore_value is None else [ignore_value])])
    indices = np.array([*range(len(declared)), STORED_IGNORED][: len(values)], dtype=np.uint8)
    order = np.argsort(values)
    ascending, indices = values[order], indices[order]
    classes = np.empty(label.shape, dtype=np.uint8)
    for plane, target in zip(label, classes, strict=True):  # plane by plane: no second volume of 64-bit positions
        position = np.searchsorted(ascending, plane).clip(max=len(values) - 1)
        if not np.array_equal(ascending[position], plane):
            unknown = np.setdiff1d(label, values)[:10].tolist()
            also = "" if ignore_value is None else f" or {ignore_value} (ignore)"
            raise ImageError(
                f"{file}: expected the declared label values {dict(regions or labels)}{also}, received {unknown}. "
                f"Declare them in dataset.json, or correct the file."
            )
        target[...] = indices[position]
    return classes


def check_annotated(classes: np.ndarray, file: str | Path) -> None:
    """Raises ``ImageError`` if class indices are ``STORED_IGNORED`` alone."""
    if (classes == STORED_IGNORED).all():
        raise ImageError(
            f"{file}: expected annotated voxels, received ignored ones alone. Leave its label file away: then the case trains "
            "as unlabelled."
        )


def file_of(image: Tensor) -> str:
    """The file an image was read from, of several the first; ``image`` if it came in memory."""
    return str(getattr(image, "meta", {}).get("filename_or_obj", "image"))
