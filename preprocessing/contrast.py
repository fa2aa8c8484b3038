"""Scales of the contrastive loss: strides, local blocks and how many pixels it looks at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcsc_bundle.plan import CNNPlan, ContrastScale, TransformerPlan
from mcsc_bundle.plan_parts import BLOCK_PIXELS, nearest_level
from preprocessing.compute import contrast_flops

FINE_BLOCKS = 12
"""Blocks per axis at full size: the paper cuts 224 pixels into blocks of 19."""

COARSE_BLOCKS = 2
"""Blocks per axis at the coarse scale: the paper cuts 28 pixels into blocks of 14."""

MAX_PIXELS, MIN_PIXELS = 4096, 128

STEP_SHARE = 0.07
"""Share of the step's operations that the contrastive loss of all scales may take."""


def plan_contrast(
    patch: Sequence[int], cnn: CNNPlan, swin: TransformerPlan, batch: int, step_flops: float
) -> tuple[ContrastScale, ...]:
    """A fine scale at full size and a coarse one where both decoders have a map, as in the paper (224 and 28 of 224).

    The coarse stride is that of the CNN's map nearest to the Transformer's second stage. Each image gives as many
    pixels as keep both scales within ``STEP_SHARE`` of the step's operations, 4096 and 64 of each block at most; a map
    within that budget is taken whole.

    Args:
        patch: network patch.
        cnn, swin: the two networks.
        batch: patches in a step.
        step_flops: operations of the step without contrast.
    """
    strides = [tuple(1 for _ in patch)]
    inner = cnn.cumulative_strides[1:]
    if inner:
        wanted = swin.cumulative_strides[min(1, len(swin.depths) - 1)]
        strides.append(inner[nearest_level(inner, wanted)])
    scales = []
    for stride, pieces in zip(strides, (FINE_BLOCKS, COARSE_BLOCKS), strict=False):
        cells = tuple(math.ceil(length / step) for length, step in zip(patch, stride, strict=True))
        block = block_edges(cells, pieces)
        widths = cnn.features[cnn.cumulative_strides.index(stride)] + swin.embed_dim * 2
        pixels = _pixel_budget(math.prod(block), batch, widths, step_flops * STEP_SHARE / len(strides))
        scales.append(ContrastScale(stride, block, _given(pixels, cells, block)))
    return tuple(scales)


def block_edges(cells: Sequence[int], pieces: int) -> tuple[int, ...]:
    """Edges of the blocks of a map of so many cells, for about that many blocks on an axis."""
    return tuple(min(length, max(2, round(length / pieces))) for length in cells)


def _pixel_budget(block_voxels: int, batch: int, widths: int, flops: float) -> int:
    pixels = MAX_PIXELS
    while pixels > MIN_PIXELS and contrast_flops(pixels, min(BLOCK_PIXELS, block_voxels), batch, widths) > flops:
        pixels //= 2
    return pixels


def _given(budget: int, cells: Sequence[int], block: Sequence[int]) -> int | None:
    """Pixels that the blocks of a map give together, within the budget; ``None`` for a map that fits into it."""
    if math.prod(cells) <= budget:
        return None
    blocks = math.prod(size // edge for size, edge in zip(cells, block, strict=True))
    return min(budget, blocks * min(BLOCK_PIXELS, math.prod(block)))
