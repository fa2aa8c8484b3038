"""Configurations averaged: networks that see a case on different grids meet on the grid of its file.

Folds of one plan are averaged window by window (``mcsc_bundle.ensemble``). Two plans cut other windows from another spacing,
so their probabilities are brought back to the original grid first, as nnU-Net does for its ensembles. That holds every class of
one case at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import nn

from mcsc_bundle.cascade import PREVIOUS, PreviousStage, input_transform
from mcsc_bundle.plain import in_order
from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.transforms import RestoreMaskd, in_label_values, restore_probabilities

FILES = "case_files"
"""Entry of an image's metadata: the paths of its files as JSON, since MONAI's batches turn lists of texts round."""

SAME = (
    "channel_names",
    "labels",
    "ignore_value",
    "regions",
    "image_dims",
)  # of plans whose probabilities can be averaged


class Configuration:
    """A plan with its trained network: from the files of a case to probabilities on their grid.

    Args:
        plan: the plan.
        network: trained on it; folds are averaged inside.
        inferer: its windows.
        device: to compute on.
        previous: the stage before, of a cascade.
    """

    def __init__(
        self,
        plan: Plan,
        network: nn.Module,
        inferer: Inferer,
        device: torch.device | str = "cpu",
        previous: PreviousStage | None = None,
    ) -> None:
        self.plan, self.inferer, self.device = plan, inferer, torch.device(device)
        self.network = network.to(self.device).eval()
        self.transform = input_transform(plan, previous)

    @torch.no_grad()
    def probabilities(self, files: Any, previous: str | os.PathLike | None = None) -> MetaTensor:
        """``(C, *spatial)``, float32, on the grid of the files.

        Args:
            files: path of the image, or one for each channel.
            previous: file of the previous stage's mask, of a cascade; ``None`` predicts it.
        """
        item = {"image": files} if previous is None else {"image": files, PREVIOUS: previous}
        image = self.transform(item)["image"]
        logits = self.inferer(image.as_tensor()[None].to(self.device), self.network)[0]
        return restore_probabilities(logits.float(), image, self.transform, self.plan)

    def mask(self, files: Any) -> MetaTensor:
        """Label values ``(1, *spatial)`` on the grid of the files."""
        return mask_of(self.probabilities(files), self.plan)


def mask_of(probabilities: MetaTensor, plan: Plan) -> MetaTensor:
    """Label values ``(1, *spatial)`` of probabilities ``(C, *spatial)``: the largest class, or the last region above a half."""
    plain = probabilities.as_tensor()
    if plan.regions:
        order = torch.arange(1, len(plain) + 1).view(-1, *[1] * (plain.ndim - 1))
        index = (order * (plain > 0.5)).amax(0, keepdim=True)
    else:
        index = plain.argmax(0, keepdim=True)
    return in_label_values(index, plan, probabilities.meta)


def check_joinable(plans: Mapping[str, Plan]) -> None:
    """Refuse to average networks that speak of other classes or images.

    Raises:
        PlanError: naming two folders and what differs.
    """
    (first, one), *others = plans.items()
    for name, other in others:
        differing = [entry for entry in SAME if in_order(getattr(one, entry)) != in_order(getattr(other, entry))]
        if differing:
            raise PlanError(
                f"expected configurations of one data set, received {first} and {name}, which differ in "
                f"{', '.join(differing)}. Cross-validate both on the same data."
            )


class RestoreJoinedd(RestoreMaskd):
    """Like ``RestoreMaskd``, the probabilities averaged with those of further configurations.

    Args:
        *arguments, **named: of ``RestoreMaskd``, for the first configuration. The metadata of its preprocessed image name the
            files of the case (``FILES``).
        others: further configurations.
    """

    def __init__(self, *arguments: Any, others: Sequence[Configuration], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.others = others

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its logits replaced by the mask on the original grid."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[self.orig_key]
            own = restore_probabilities(item[key], image, self.transform, self.plan)
            files = json.loads(image.meta[FILES])
            mean = mean_of(chain([own], (other.probabilities(files) for other in self.others)))
            item[key] = mask_of(mean, self.plan)
            if self.probabilities_key is not None:
                item[self.probabilities_key] = mean
        return item


def mean_of(probabilities: Iterable[MetaTensor]) -> MetaTensor:
    """The mean of probabilities on one grid, with the metadata of the first; besides the sum, one at a time is held."""
    others = iter(probabilities)
    first = next(others)
    total, count = first.as_tensor().clone(), 1
    for each in others:
        total += each.as_tensor()
        count += 1
    return MetaTensor(total.div_(count), meta=first.meta, applied_operations=[])
