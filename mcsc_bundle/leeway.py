"""How far training patches move in images that are no larger than they are.

A patch that stays inside such an image cannot move, and the networks would see every structure in one place alone. Yet where
what is labelled fills the image, as where the Decathlon's hippocampus was cut out, a patch that moves loses a part of it, and
its place hardly varies: there moving costs Dice (``docs/recipe.md`` has both measured).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from mcsc_bundle.store import CaseStore, StoredCase

log = logging.getLogger(__name__)

LEEWAY = 0.2  # of the patch, to each side
SURROUNDINGS = 0.25  # of the structures' size, to each side: what a patch that moved still shows of what is around them
MEASURED = 50  # labelled cases at most


def leeway_voxels(
    store: CaseStore, cases: Sequence[str], patch_size: Sequence[int], leeway: float = LEEWAY
) -> np.ndarray:
    """Voxels per image axis by which a patch may leave the middle of its image, whatever the image's size.

    ``leeway`` of the patch, but no more than leaves room for the box around all foreground and ``SURROUNDINGS``, if it lies
    in the middle: of the usual labelled case, the median. Cases without foreground do not count; without any other the
    patch has all of ``leeway``. Organs that lie apart make one large box.

    Args:
        store, cases: the preprocessed cases, and the names of the labelled ones.
        patch_size: per image axis.
        leeway: share of the patch, 0 to 0.5.
    """
    patch = np.asarray(patch_size)
    asked = np.round(leeway * patch).astype(int)
    measured = cases[:: -(-len(cases) // MEASURED)]
    boxes = [box for case in measured if (box := _box(store.open(case))) is not None]
    if not boxes:
        return asked
    room = (patch - (1 + 2 * SURROUNDINGS) * np.median(boxes, axis=0)) / 2
    voxels = np.clip(room, 0, asked).astype(int)
    if (voxels < asked).any():
        moves, by = (" x ".join(map(str, each)) for each in (voxels, asked))
        told = "Structures fill the patch: in images no larger it moves by %s voxels, not by the %s of --leeway %g."
        log.info(told, moves, by, leeway)
    return voxels


def _box(case: StoredCase) -> np.ndarray | None:
    """Voxels per axis of the box around all foreground; ``None`` of a case without."""
    voxels = [positions for index, positions in case.foreground.items() if index > 0]
    return np.ptp(np.concatenate(voxels), axis=0) + 1 if voxels else None
