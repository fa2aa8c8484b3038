"""The ignore label: voxels of a labelled scan that nobody annotated (nnU-Net v2, ``documentation/ignore_label.md``).

They teach nothing and are scored nowhere. Their class index is ``STORED_IGNORED`` in preprocessed cases, which are
unsigned, and ``IGNORED`` in training batches, as pseudo-labels have it where their teacher is not sure. Networks have no
output for it, so it is never predicted.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.networks.utils import one_hot
from monai.transforms import MapTransform
from torch import Tensor

from mcsc_bundle.plan import Plan

IGNORED = -1
STORED_IGNORED = 255  # preprocessing.declared.MAX_CLASSES leaves it free


def with_ignored(stored: np.ndarray) -> np.ndarray:
    """Stored class indices (uint8) as int16, ``IGNORED`` where nobody annotated."""
    return np.where(stored == STORED_IGNORED, np.int16(IGNORED), stored.astype(np.int16))


class ScoredClassesd(MapTransform):
    """Logits and stored class indices as one channel per class, for a metric; ignored voxels are background in both.

    A metric that leaves the background out then scores the annotated voxels alone.

    Args:
        keys: of the logits ``(C, *spatial)`` and of the class indices ``(1, *spatial)``.
        plan: the plan.
    """

    def __init__(self, keys: KeysCollection, plan: Plan) -> None:
        super().__init__(keys)
        self.num_classes = plan.num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``(classes, *spatial)`` of zeros and ones under both keys."""
        item = dict(data)
        logits, label = self.keys
        ignored = item[label] == STORED_IGNORED
        for key, classes in ((logits, item[logits].argmax(0, keepdim=True)), (label, item[label])):
            item[key] = self._channels(classes.masked_fill(ignored, 0))
        return item

    def _channels(self, classes: Tensor) -> Tensor:
        return one_hot(torch.as_tensor(classes), self.num_classes, dim=0)
