"""Keep the largest component of classes in a mask, one group of them after the other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from mcsc_bundle.components import beside_largest, boxes_of, joint_box, numbered
from mcsc_bundle.labels import Values, as_tuple, inside

REMOVED = "removed_voxels"
"""In the metadata of a mask: how many voxels of smaller components it had."""
LEAST_LEFT = 0.25  # of a class's largest component, when classes are taken together


def keep_largest(mask: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Keep the largest component of each group of label values, until nothing changes any more.

    Voxels that touch in a corner belong together. Repeating matters where a class that is cleaned later held two parts
    of the foreground together; so the result is the same when it is processed again. Where we differ from nnU-Net: of classes
    that are taken together, one that would keep less than ``LEAST_LEFT`` of its own largest component is left as it is, since
    a gap of a voxel between it and the rest would cost all of it.

    Args:
        mask: label values ``(1, *spatial)``; it is left as it is.
        groups: label values of each step, in order.
    """
    values = mask[0].cpu().numpy()
    labels = values.copy() if values.dtype.kind in "iu" else values.astype(np.int32)
    boxes = boxes_of(labels)
    steps = [(list(group), labels[box]) for group in groups if (box := joint_box(boxes, group)) is not None]
    while any([_removed_beside(part, group) for group, part in steps]):  # a list: every step has its turn
        pass
    return torch.where(torch.from_numpy(labels != 0)[None].to(mask.device), mask, torch.zeros_like(mask))


def _removed_beside(part: np.ndarray, group: Sequence[int]) -> bool:
    """Set what is beside the largest component to 0, in place; whether there was any."""
    members = inside(part, group[0] if len(group) == 1 else group)
    gone = beside_largest(members)
    if not gone.any():
        return False
    for value in group if len(group) > 1 else ():
        own = part == value
        left = np.count_nonzero(own & ~gone)
        if left < LEAST_LEFT * numbered(own)[1].max(initial=0):
            gone &= ~own
    part[gone] = 0
    return bool(gone.any())


class KeepLargestd(MapTransform):
    """The adopted steps for masks on the original grid; their metadata stay, with the number of voxels that went (``REMOVED``).

    Args:
        keys: of the masks ``(1, *spatial)``.
        groups: classes of each step (``Postprocessing.adopted``).
        labels: class name to label value, or region to its values.

    Raises:
        ValueError: a class that ``labels`` does not have.
    """

    def __init__(self, keys: KeysCollection, groups: Sequence[Sequence[str]], labels: Mapping[str, Values]) -> None:
        super().__init__(keys)
        self.groups = values_of(groups, labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with cleaned masks."""
        item = dict(data)
        for key in self.key_iterator(item):
            mask = item[key]
            plain = mask.as_tensor() if isinstance(mask, MetaTensor) else mask
            kept = keep_largest(plain, self.groups)
            if isinstance(mask, MetaTensor):
                removed = int(torch.count_nonzero(plain) - torch.count_nonzero(kept))
                kept = MetaTensor(kept, meta={**mask.meta, REMOVED: removed})
            item[key] = kept
        return item


def values_of(groups: Sequence[Sequence[str]], labels: Mapping[str, Values]) -> list[list[int]]:
    """Label values of each group of classes.

    Raises:
        ValueError: a class that ``labels`` does not have.
    """
    unknown = sorted({name for classes in groups for name in classes} - set(list(labels)[1:]))
    if unknown:
        raise ValueError(f"expected classes out of {', '.join(list(labels)[1:])}, received {', '.join(unknown)}.")
    return [[value for name in classes for value in as_tuple(labels[name])] for classes in groups]
