"""How far training patches move past the border of images that are no larger than they are.

A patch that stays inside such an image cannot move, and the networks would see every structure in one place alone. Yet where
the images were cut around what is labelled, as those of the Decathlon's hippocampus, that place is all there will ever be, and
a patch that moves only loses a part of it: there it costs Dice (``docs/method.md``, Patches move, has both measured).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mcsc_bundle.store import StoredCase

LEEWAY = 0.2  # of the patch, to each side
SURROUNDINGS = 0.25  # of the structures' size, to each side: what a patch that moved still shows of what is around them


def leeway_voxels(cases: Iterable[StoredCase], patch_size: Sequence[int], leeway: float = LEEWAY) -> np.ndarray:
    """Voxels per image axis by which a patch may leave the middle of its image, whatever the image's size.

    ``leeway`` of the patch, but no more than leaves room for the box around all foreground and ``SURROUNDINGS``, if it lies
    in the middle: of the usual labelled case, the median.

    Args:
        cases: labelled cases.
        patch_size: per image axis.
        leeway: share of the patch, 0 to 0.5.
    """
    patch = np.asarray(patch_size)
    most = np.round(leeway * patch)
    boxes = [box for case in cases if (box := _box(case)) is not None]
    room = (patch - (1 + 2 * SURROUNDINGS) * np.median(boxes, axis=0)) / 2 if boxes else most
    return np.clip(room, 0, most).astype(int)


def _box(case: StoredCase) -> np.ndarray | None:
    """Voxels per axis of the box around all foreground; ``None`` of a case without."""
    voxels = [positions for index, positions in case.foreground.items() if index > 0]
    return np.ptp(np.concatenate(voxels), axis=0) + 1 if voxels else None
