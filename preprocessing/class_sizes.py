"""How large each class of a label map is, and in how many pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mcsc_bundle.components import boxes_of, joint_box, numbered
from mcsc_bundle.labels import STORED_IGNORED, inside


@dataclass(frozen=True)
class Components:
    """Connected components of a class; voxels that share a corner are connected.

    Args:
        count: how many there are.
        largest: share of the voxels that the largest holds; 0 without any voxel.
    """

    count: int
    largest: float


def class_voxels(classes: np.ndarray, members: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Voxels of each class or region, background too.

    Args:
        classes: class indices ``(*spatial)``, uint8, ``STORED_IGNORED`` where nobody annotated.
        members: name to the indices that belong to it, background first.
    """
    counts = np.zeros(STORED_IGNORED + 1, dtype=np.int64)
    for plane in classes:  # bincount makes 64-bit copies
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    return {name: int(sum(counts[index] for index in indices)) for name, indices in members.items()}


def class_components(classes: np.ndarray, members: Mapping[str, Sequence[int]]) -> dict[str, Components]:
    """The components of each foreground class or region; arguments as ``class_voxels``."""
    boxes, found = boxes_of(classes, STORED_IGNORED - 1), {}
    for name, indices in list(members.items())[1:]:
        box = joint_box(boxes, indices)
        sizes = np.zeros(0) if box is None else numbered(inside(classes[box], _one_or_all(indices)))[1]
        found[name] = Components(len(sizes), float(sizes.max() / sizes.sum()) if len(sizes) else 0.0)
    return found


def least_in_largest(classes: np.ndarray, members: Mapping[str, Sequence[int]]) -> float:
    """Of each class that is there the share in the largest component of all together; the least of these, 0 without a class.

    Not of all voxels, of which a small organ beside a large one would be next to nothing. Arguments as ``class_voxels``.
    """
    box = joint_box(boxes_of(classes, STORED_IGNORED - 1), range(1, STORED_IGNORED))
    if box is None:
        return 0.0
    part = classes[box]
    components, sizes = numbered((part != 0) & (part != STORED_IGNORED))
    whole = class_voxels(part, members)
    kept = class_voxels(np.where(components == sizes.argmax() + 1, part, 0), members)
    return min(kept[name] / voxels for name, voxels in list(whole.items())[1:] if voxels)


def _one_or_all(indices: Sequence[int]) -> int | Sequence[int]:
    """A comparison is faster than a search."""
    return indices[0] if len(indices) == 1 else indices
