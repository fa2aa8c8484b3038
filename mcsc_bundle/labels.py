"""What the values in label files stand for beside one class each: regions of several values, and voxels nobody annotated.

After nnU-Net v2 (``documentation/region_based_training.md``, ``ignore_label.md``). The values of label files are stored as
their index, background first. Ignored voxels teach nothing and are scored nowhere. Their index is ``STORED_IGNORED`` in
preprocessed cases, which are unsigned, and ``IGNORED`` in training batches, as pseudo-labels have it where their teacher is
not sure. Networks have no output for them, so they are never predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

IGNORED = -1
STORED_IGNORED = 255
MAX_CLASSES = 255  # class indices are stored as uint8, below the ignored voxels'

Values = int | Sequence[int]
"""Of a class its value, of a region its values."""


def with_ignored(stored: np.ndarray) -> np.ndarray:
    """Stored class indices (uint8) as int16, ``IGNORED`` where nobody annotated."""
    return np.where(stored == STORED_IGNORED, np.int16(IGNORED), stored.astype(np.int16))


def file_values(labels: Mapping[str, int], regions: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Values in label files in the order of the stored indices, background (0) first, without the ignore label.

    Args:
        labels: name to value, background first; of regions the value that each is painted with.
        regions: name to values, empty if there are none.
    """
    if not regions:
        return tuple(labels.values())
    return (0, *sorted({value for region in regions.values() for value in region} - {0}))


def scored_values(labels: Mapping[str, int], regions: Mapping[str, Sequence[int]]) -> dict[str, Values]:
    """Name to the values that belong to it, background first. Arguments as ``file_values``."""
    return {name: regions.get(name, value) for name, value in labels.items()}


def as_tuple(values: Values) -> tuple[int, ...]:
    """The values of a class or a region."""
    return (values,) if isinstance(values, int) else tuple(values)


def inside(mask: np.ndarray, values: Values) -> np.ndarray:
    """Where a mask of label values holds a class or a region."""
    return mask == values if isinstance(values, int) else np.isin(mask, list(values))


def painted(label: np.ndarray, labels: Mapping[str, int], regions: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Label values as a network's regions would be written: each painted over those before it. Without regions, ``label``."""
    if not regions:
        return label
    result = np.zeros_like(label)
    for name, values in regions.items():
        result[inside(label, values)] = labels[name]
    return result


def paints_apart(order: Any, regions: Sequence[Sequence[int]]) -> bool:
    """Whether a mask painted with the values of ``order`` shows which region was painted last in each voxel.

    Args:
        order: a value for each region, as a file gives it.
        regions: their values, in the order of painting.
    """
    if not isinstance(order, (list, tuple)) or len(order) != len(regions):
        return False
    later = [set().union(*regions[index + 1 :]) for index in range(len(regions))]
    return all(value in own and value not in after for value, own, after in zip(order, regions, later, strict=True))
