"""Connected components of label maps, looked for in the box around a label alone; voxels that share a corner are connected.

MONAI's ``get_largest_connected_component_mask`` searches the whole volume and gives no sizes, which the fingerprint needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

CHUNK = 2**24  # voxels that are counted at a time: bincount makes 64-bit copies

Box = tuple[slice, ...]


def boxes_of(labels: np.ndarray, highest: int = 0) -> list[Box | None]:
    """The box around each value of a map of whole numbers, of 1 first; ``None`` for one that is not there.

    Args:
        labels: the map.
        highest: value to stop at; 0 for the highest there is.
    """
    return ndimage.find_objects(labels, max_label=highest)


def joint_box(boxes: Sequence[Box | None], values: Iterable[int]) -> Box | None:
    """The box around some of the values together; ``None`` if none of them is there."""
    found = [box for box in (boxes[value - 1] for value in values if 0 < value <= len(boxes)) if box is not None]
    if not found:
        return None
    return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*found, strict=True))


def beside_largest(mask: np.ndarray) -> np.ndarray:
    """The voxels of a binary mask that are not of its largest component; of equal ones the first stays."""
    components, sizes = numbered(mask)
    return mask & (components != sizes.argmax() + 1) if len(sizes) > 1 else np.zeros_like(mask)


def numbered(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of its component in each voxel of a binary mask, 0 outside; and the size of each, of number 1 first."""
    components, count = ndimage.label(mask, np.ones((3,) * mask.ndim, dtype=bool))
    flat = components.reshape(-1)
    sizes = np.zeros(count + 1, dtype=np.int64)
    for start in range(0, flat.size, CHUNK):
        sizes += np.bincount(flat[start : start + CHUNK], minlength=count + 1)
    return components, sizes[1:]
