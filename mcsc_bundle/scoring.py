"""Logits and stored labels of whole cases as what a metric takes, for validation on the plan's grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.metrics import DiceMetric
from monai.transforms import MapTransform
from torch import Tensor

from mcsc_bundle.devices import with_room
from mcsc_bundle.labels import IGNORED, STORED_IGNORED
from mcsc_bundle.outputs import outputs_of
from mcsc_bundle.plan import Plan


class ScoredClassesd(MapTransform):
    """Logits and stored class indices as one channel per class or region; ignored voxels are background in both.

    The first channel is the background: what is in no class. A metric that leaves it out scores annotated voxels alone.

    Args:
        keys: of the logits ``(C, *spatial)`` and of the stored class indices ``(1, *spatial)``.
        plan: the plan.
    """

    def __init__(self, keys: KeysCollection, plan: Plan) -> None:
        super().__init__(keys)
        self.outputs, self.channels = outputs_of(plan), plan.out_channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``(1 + classes, *spatial)`` of zeros and ones under both keys."""
        logits, label = self.keys
        predicted, stored = (torch.as_tensor(data[key])[None] for key in self.keys)
        both = with_room(self._scored, predicted, stored)
        return {**data, **dict(zip((logits, label), both, strict=True))}

    def _scored(self, logits: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
        stored = stored.to(logits.device)  # the inferer may have gone to main memory
        outputs, ignored = self.outputs.to(stored.device), stored == STORED_IGNORED
        truth = outputs.target(stored.long().masked_fill(ignored, IGNORED))
        predicted = outputs.hard(logits).masked_fill(ignored, IGNORED)
        return self._channels(predicted), self._channels(truth)

    def _channels(self, target: Tensor) -> Tensor:
        classes = self.outputs.foreground(target, self.channels)[0]
        return torch.cat((~classes.any(0, keepdim=True), classes)).float()


class CaseDice(DiceMetric):
    """MONAI's Dice, whose scores wait in main memory: of cases that fit on the GPU and of others that did not, side by side."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super()._compute_tensor(y_pred, y).cpu()
