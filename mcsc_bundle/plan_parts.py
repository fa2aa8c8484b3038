"""Parts of a plan: its kinds, normalisation of a channel, shapes of both networks, a scale of the contrast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOWRES, CASCADE = "3d_lowres", "3d_cascade_fullres"
CONFIGURATIONS = ("2d", "3d_fullres", LOWRES)
"""nnU-Net's names for plans of one stage; a cascade refines the masks of ``LOWRES``."""

FULL_SIZE_CHANNELS, BLOCK_PIXELS = 16, 64
"""Most channels of the Swin-UNet's map at full size; most pixels that a local block gives to its group."""

PROJECTOR_HIDDEN, PROJECTION = 256, 128
"""Widths of the contrastive loss's projectors: first layer, vectors that are contrasted."""


@dataclass(frozen=True)
class ChannelNormalization:
    """How the intensities of one channel are normalised, before resampling (nnU-Net's schemes).

    Args:
        channel: name of the channel, for the reader.
        scheme: one of ``NORMALIZATION_SCHEMES``. ``zscore``: per image, minus mean, over standard deviation. ``ct``: clip
            to ``[lower, upper]``, minus ``mean``, over ``std``, all four from the data set's foreground.
            ``rescale_to_0_1``: per image min-max. ``rgb_to_0_1``: divide by 255. ``none``: as it is.
        inside_mask: for ``zscore``, measure and apply inside the non-zero voxels only; outside stays 0.
        lower, upper, mean, std: only for ``ct``, in the units of the image.
    """

    channel: str
    scheme: str
    inside_mask: bool = False
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class CNNPlan:
    """Shape of the U-Net. Entry ``i`` of each tuple is resolution stage ``i``, from full size to the bottleneck.

    Args:
        preset: ``plan`` (shaped by the fields below), ``resenc`` (the same with a residual encoder) or ``paper`` (the
            2-D U-Net of SSL4MIS; the fields describe it).
        features: channels of each stage.
        kernel_sizes: convolution kernel of each stage, per network axis.
        strides: downsampling on entering each stage, per network axis; the first is all ones.
        convs_per_stage: convolutions in each encoder stage (decoder stages take as many).
        blocks_per_stage: of ``resenc``, residual blocks in each encoder stage instead; else empty.
    """

    preset: str
    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    convs_per_stage: int = 2
    blocks_per_stage: tuple[int, ...] = ()

    @property
    def cumulative_strides(self) -> tuple[tuple[int, ...], ...]:
        """Downsampling of each stage against the patch, per network axis."""
        return _cumulative(self.strides)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each patch axis must be a multiple of."""
        return self.cumulative_strides[-1]


@dataclass(frozen=True)
class TransformerPlan:
    """Shape of the Swin-UNet. Entry ``i`` of the tuples is resolution stage ``i``, from the token grid down.

    Args:
        preset: ``plan`` or ``paper`` (Swin-Unet tiny, 224 x 224).
        patch: voxels per token, per network axis (patch embedding).
        merges: patch merging on entering each stage, per network axis; the first is all ones.
        embed_dim: channels of the first stage; doubled at each stage.
        depths: Swin blocks of each encoder stage; the decoder takes as many, mirrored.
        heads: attention heads of each stage; each must divide the channels of its stage.
        window: tokens per attention window, per network axis. Padding to a multiple happens inside the network.
        joins_image: whether a convolution of the image is added to the map at full size; plans of older versions, and the
            paper's, have none.
    """

    preset: str
    patch: tuple[int, ...]
    merges: tuple[tuple[int, ...], ...]
    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: tuple[int, ...]
    joins_image: bool = False

    @property
    def cumulative_strides(self) -> tuple[tuple[int, ...], ...]:
        """Downsampling of each stage against the patch, per network axis."""
        return tuple(tuple(p * m for p, m in zip(self.patch, merge, strict=True)) for merge in _cumulative(self.merges))

    @property
    def full_size_channels(self) -> int:
        """Width of the map at full size."""
        return full_size_channels(self.preset, self.embed_dim)


@dataclass(frozen=True)
class ContrastScale:
    """One scale of the contrastive loss.

    Args:
        stride: size of a feature voxel in patch voxels, per network axis (1 = full size).
        block: edge of a local block in feature voxels, per network axis.
        pixels: how many feature voxels of one image are sampled for the loss; ``None`` takes all of them.
    """

    stride: tuple[int, ...]
    block: tuple[int, ...]
    pixels: int | None = None


def full_size_channels(preset: str, embed_dim: int) -> int:
    """Width of the Swin-UNet's map at full size: in the paper that of the first stage."""
    return embed_dim if preset == "paper" else min(embed_dim, FULL_SIZE_CHANNELS)


def nearest_level(strides: Sequence[Sequence[int]], wanted: Sequence[int]) -> int:
    """Index of the feature map whose stride is nearest to the wanted one (in octaves, summed over the axes)."""
    distance = [sum(abs(math.log2(a / b)) for a, b in zip(stride, wanted, strict=True)) for stride in strides]
    return distance.index(min(distance))


def _cumulative(factors: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    total = [1] * len(factors[0])
    stages = []
    for factor in factors:
        total = [a * b for a, b in zip(total, factor, strict=True)]
        stages.append(tuple(total))
    return tuple(stages)
