"""What a training step costs in floating-point operations, and in seconds on a CPU.

One multiply-add counts as two operations; a backward pass costs twice the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcsc_bundle.plan import CNNPlan, TransformerPlan
from mcsc_bundle.plan_parts import PROJECTION, PROJECTOR_HIDDEN
from preprocessing.memory import attended_tokens, encoder_products, stem_channels, token_grids

CNN_CPU_FLOPS = {2: 1.0e11, 3: 8.0e10}
TRANSFORMER_CPU_FLOPS = {2: 5.0e10, 3: 3.5e10}
"""Operations per second that a training step of 2-D and 3-D networks reaches on two CPU cores (docs/planning.md)."""

NARROW_CNN, NARROW_CNN_CPU_FLOPS = 16, 4.0e10
"""A CNN of fewer channels at full size leaves the vector units half empty."""

CPU_OVERHEAD_S = 0.2
"""Augmentation, losses and optimiser of a step, which grow little with the patch."""

FORWARD_AND_BACKWARD = 3


def cnn_flops(patch: Sequence[int], cnn: CNNPlan, in_channels: int, num_classes: int) -> float:
    """Operations of one forward pass of the U-Net on one patch."""
    voxels = [
        math.prod(length // stride for length, stride in zip(patch, strides, strict=True))
        for strides in cnn.cumulative_strides
    ]
    total, width = 0.0, in_channels
    for stage, features in enumerate(cnn.features):
        total += voxels[stage] * math.prod(cnn.kernel_sizes[stage]) * encoder_products(cnn, stage, width)
        width = features
    for stage in range(len(cnn.features) - 1):
        features, below = cnn.features[stage], cnn.features[stage + 1]
        products = 2 * features**2 + (cnn.convs_per_stage - 1) * features**2
        total += voxels[stage] * (math.prod(cnn.kernel_sizes[stage]) * products + below * features)
    return 2 * (total + voxels[0] * cnn.features[0] * num_classes)


def transformer_flops(patch: Sequence[int], swin: TransformerPlan, in_channels: int, num_classes: int) -> float:
    """Operations of one forward pass of the Swin-UNet on one patch."""
    grids = token_grids(patch, swin)
    voxels = math.prod(grids[0]) * math.prod(swin.patch)
    total = float(voxels * in_channels * swin.embed_dim)
    for stage, (grid, depth) in enumerate(zip(grids, swin.depths, strict=True)):
        width, tokens, deepest = swin.embed_dim * 2**stage, math.prod(grid), stage == len(grids) - 1
        block = 12 * width**2 + 2 * attended_tokens(grid, swin.window) * width
        total += tokens * (depth if deepest else 2 * depth) * block
        if not deepest:  # merging to the next stage, expansion back, fusion of the skip
            total += tokens * (2 * width**2 + 2 * width**2 + 2 * width**2)
    kernel = 3 ** len(patch)
    full_size = (
        swin.full_size_channels * (swin.embed_dim + kernel * num_classes) + stem_channels(swin) * kernel * in_channels
    )
    return 2 * (total + voxels * full_size)


def contrast_flops(pixels: int, block_pixels: int, batch: int, widths: int) -> float:
    """Operations of the contrastive loss of one scale, forward and backward.

    Args:
        pixels: feature voxels sampled from each of the ``2 * batch`` maps.
        block_pixels: of these, how many lie in one local block; a group joins one block of every map.
        batch: patches in the step.
        widths: channels of the two networks' maps together.
    """
    maps = 2 * batch
    groups, rows = pixels / block_pixels, maps * block_pixels
    similarity = groups * rows**2 * PROJECTION * 2
    projectors = pixels * batch * (widths * PROJECTOR_HIDDEN + 2 * PROJECTOR_HIDDEN * PROJECTION) * 2
    # One similarity product forward, three backward (one recomputed); exponentials weigh about as much.
    return 5 * similarity + FORWARD_AND_BACKWARD * projectors


def cpu_step_seconds(dims: int, cnn_width: int, cnn_forward: float, transformer_forward: float, batch: int) -> float:
    """Seconds of one step (forward and backward of both networks on ``batch`` patches) on two CPU cores, to two digits.

    Args:
        dims: of the networks.
        cnn_width: channels of the CNN at full size.
        cnn_forward, transformer_forward: operations of one forward pass of one patch.
        batch: patches in a step.
    """
    cnn_rate = NARROW_CNN_CPU_FLOPS if cnn_width < NARROW_CNN else CNN_CPU_FLOPS[dims]
    per_patch = cnn_forward / cnn_rate + transformer_forward / TRANSFORMER_CPU_FLOPS[dims]
    seconds = CPU_OVERHEAD_S + FORWARD_AND_BACKWARD * batch * per_patch
    return float(f"{seconds:.2g}")  # the rates are known no better, and no plan is to turn on the third
