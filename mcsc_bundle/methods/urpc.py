"""URPC, uncertainty rectified pyramid consistency (Luo et al., MICCAI 2021, arXiv 2012.07042), as SSL4MIS trains it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcsc_bundle.losses.consistency import pyramid_consistency, sigmoid_rampup
from mcsc_bundle.methods.base import IMAGE, LABEL, Method, split_streams
from mcsc_bundle.methods.supervision import head_like
from mcsc_bundle.networks.pair import NetworkPair


class URPC(Method):
    """One CNN that predicts at up to four decoder scales; on unlabelled patches all must agree with their mean.

    ``L = mean_s L_s + w(t) pyramid_consistency``. Predictions of the lower scales are brought to full size voxel by voxel
    (nearest). Before their heads the features are disturbed, in training alone, so that they have something to agree on:
    noise at half size, feature dropout at a quarter, channel dropout at an eighth. A U-Net with fewer decoder stages has
    fewer scales. The lower heads belong to the method, so the shipped network stays the plan's plain U-Net.

    Args:
        networks: the plan's pair; the Transformer is not used.
        loss: supervised loss of logits and label.
        weight: final weight of the consistency term.
        rampup: progress at which ``w(t) = weight exp(-5 (1 - t)^2)`` is full.

    Raises:
        ValueError: the CNN has one decoder stage, so there is one scale.
    """

    def __init__(self, networks: NetworkPair, loss: nn.Module, weight: float = 0.1, rampup: float = 1.0) -> None:
        super().__init__(networks)
        widths = self.cnn.feature_channels[1:-1][-len(DISTURBANCES) :]  # neither bottleneck nor full size
        if not widths:
            raise ValueError(
                "URPC: expected a CNN with at least two decoder stages, received one with one: there is nothing to "
                "compare. Plan a larger patch, or choose another method."
            )
        self.loss = loss
        self.weight, self.rampup = weight, rampup
        self.heads = nn.ModuleList(head_like(self.cnn.head, width) for width in widths)

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Terms ``supervised`` and ``consistency``."""
        label = batch[LABEL]
        pyramid = self.pyramid(batch[IMAGE])
        labeled, unlabeled = zip(*(split_streams(logits, len(label)) for logits in pyramid), strict=True)
        terms = {"supervised": torch.stack([self.loss(logits, label) for logits in labeled]).mean()}
        if len(unlabeled[0]):
            weight = self.weight * sigmoid_rampup(progress / self.rampup)
            terms["consistency"] = weight * pyramid_consistency(unlabeled, self.outputs)
        return terms

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Logits of every scale at full size, each ``(B, C, *spatial)``, coarse to fine; the last are the shipped network's."""
        maps = self.cnn.features(image)
        logits = []
        lower = zip(self.heads, maps[-1 - len(self.heads) : -1], DISTURBANCES[-len(self.heads) :], strict=True)
        for head, features, disturb in lower:
            small = head(disturb(features) if self.training else features)
            logits.append(F.interpolate(small, image.shape[2:]))
        return [*logits, self.cnn.head(maps[-1])]


def channel_dropout(x: Tensor) -> Tensor:
    """Half of the channels of each sample set to 0, the others doubled."""
    return (F.dropout2d if x.ndim == 4 else F.dropout3d)(x, 0.5)


def feature_dropout(x: Tensor) -> Tensor:
    """The most active voxels set to 0: those whose mean over the channels exceeds 0.7 to 0.9 of the sample's largest."""
    activity = x.mean(1, keepdim=True)
    largest = activity.amax(dim=tuple(range(1, x.ndim)), keepdim=True)
    return x * (activity < largest * torch.empty((), device=x.device).uniform_(0.7, 0.9))


def feature_noise(x: Tensor) -> Tensor:
    """Every feature scaled by a factor drawn from [0.7, 1.3], the same for all samples of the batch."""
    return x * torch.empty_like(x[:1]).uniform_(0.7, 1.3)


DISTURBANCES = (channel_dropout, feature_dropout, feature_noise)  # of the lower scales, coarse to fine
