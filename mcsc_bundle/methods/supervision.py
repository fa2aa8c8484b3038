"""The supervised loss of a network, at full size alone or on its decoder's coarser maps as well (deep supervision)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from mcsc_bundle.networks.unet import UNet, he


class Supervision(nn.Module):
    """``sum_s w_s loss(logits_s, label_s)`` over the decoder's maps, ``w_s`` in proportion to 1, 1/2, 1/4, ... from full size on.

    nnU-Net's deep supervision (Isensee et al., 2021; ``nnUNetTrainer._build_loss``): every map but the decoder's coarsest is
    given a pointwise head and the label of the voxel nearest to each of its own. The heads belong to the method, so the network
    that is shipped stays the plan's.

    Args:
        network: whose maps ``features`` returns.
        loss: of logits ``(B, C, *spatial)`` and label ``(B, 1, *spatial)``.
        deep: whether the coarser maps learn, too; a network with less than three decoder stages has none that would.

    Attributes:
        weights: of full size, then of each coarser map; they sum to 1.
    """

    def __init__(self, network: UNet, loss: nn.Module, deep: bool = False) -> None:
        super().__init__()
        self.loss = loss
        widths = network.feature_channels[2:-1] if deep else ()  # neither the bottleneck nor the decoder's coarsest
        self.heads = nn.ModuleList(he(head_like(network.head, width)) for width in reversed(widths))  # fine to coarse
        shares = [0.5**scale for scale in range(1 + len(widths))]
        self.weights = tuple(share / sum(shares) for share in shares)

    def forward(self, logits: Tensor, maps: Sequence[Tensor], label: Tensor) -> Tensor:
        """A scalar.

        Args:
            logits: at full size, ``(L + U, C, *spatial)``, labelled patches first.
            maps: that ``features`` returned, coarse to fine, ``(L + U, ...)``.
            label: ``(L, 1, *spatial)``.
        """
        labeled = len(label)
        terms = [self.loss(logits[:labeled], label)]
        for head, features in zip(self.heads, reversed(maps[:-1]), strict=False):
            terms.append(self.loss(head(features[:labeled]), nearest(label, features.shape[2:])))
        return torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()


def has_heads(weights: Iterable[str]) -> bool:
    """Whether the names of a method's weights are those of a deeply supervised one."""
    return any("supervision.heads." in name for name in weights)


def nearest(label: Tensor, size: Sequence[int]) -> Tensor:
    """The label ``(B, 1, *size)`` of the voxel whose centre is nearest."""
    return F.interpolate(label.float(), tuple(size), mode="nearest-exact").to(label.dtype)


def head_like(head: nn.Module, width: int) -> _ConvNd:
    """A convolution to the same classes with the same kernel, from ``width`` channels."""
    if not isinstance(head, _ConvNd):
        raise TypeError(f"expected the CNN's head to be a convolution, received {type(head).__name__}.")
    return type(head)(width, head.out_channels, head.kernel_size, padding=head.padding)  # type: ignore[call-arg, arg-type]
