"""Shape of the Swin-UNet for a patch: token size, merging, width, heads and attention window per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcsc_bundle.plan import TransformerPlan
from preprocessing.topology import SIMILAR_SPACING

TOKEN_EDGE, FINE_TOKEN_EDGE = 4, 2
"""Voxels per token along the finest axis: as in Swin-Unet, and where that leaves few tokens."""

FINE_TOKEN_LIMIT = {2: 1024, 3: 16_384}
"""Tokens take the fine edge while there are no more than this many: small organs are lost in tokens of 4 x 4 x 4."""

MAX_STAGES = 4
MIN_TOKENS = 4
"""Each axis keeps this many tokens, in the first stage and after merging."""

FINE_TOKEN_WIDTH = 48
"""Most channels of the first stage beside fine tokens (as in SwinUNETR), of which there are more."""

BLOCKS_PER_STAGE = 2
WINDOWS = {2: (7, 8, 6, 5, 4), 3: (7, 6, 5, 4)}
"""Window edges to choose from, the preferred first (Swin: 7)."""


def plan_transformer(
    patch: Sequence[int], spacing_mm: Sequence[float], width: int, fine_tokens: bool = True
) -> TransformerPlan:
    """A Swin-UNet whose tokens, merges and windows suit a patch of any shape.

    - Tokens are about as long in mm on every axis: a coarse axis gets fewer voxels per token, down to one.
    - An axis is merged while that leaves ``MIN_TOKENS`` and its tokens are less than twice the finest in mm.
    - Tokens and merges divide the patch, so that the network pads nothing.
    - The window of an axis is the edge of 4 to 7 (2-D: 8) whose multiples pad the grids of all stages least.

    Args:
        patch, spacing_mm: the CNN's patch and the target spacing, per network axis.
        width: channels of the first stage; beside fine tokens at most ``FINE_TOKEN_WIDTH``.
        fine_tokens: whether small grids may take the fine edge. On a CPU they may not: eight times the tokens make the
            Transformer, which is not shipped, cost more than the CNN.
    """
    size = _token_size(patch, spacing_mm, FINE_TOKEN_EDGE)
    fine = fine_tokens and _tokens(patch, size) <= FINE_TOKEN_LIMIT[len(patch)]
    if not fine:
        size = _token_size(patch, spacing_mm, TOKEN_EDGE)
    embed_dim = min(width, FINE_TOKEN_WIDTH) if fine else width
    merges, grids = _merges(patch, spacing_mm, size)
    heads = embed_dim // _head_width(embed_dim)
    return TransformerPlan(
        preset="plan",
        patch=size,
        merges=merges,
        embed_dim=embed_dim,
        depths=(BLOCKS_PER_STAGE,) * len(merges),
        heads=tuple(heads * 2**stage for stage in range(len(merges))),
        window=tuple(_window([grid[axis] for grid in grids], len(patch)) for axis in range(len(patch))),
        joins_image=True,
    )


def _token_size(patch: Sequence[int], spacing_mm: Sequence[float], edge: int) -> tuple[int, ...]:
    """Voxels per token: powers of two that divide the patch, about ``edge`` times the finest spacing in mm."""
    wished = [2 ** round(math.log2(max(1.0, edge * min(spacing_mm) / spacing))) for spacing in spacing_mm]
    return tuple(_dividing(length, voxels) for length, voxels in zip(wished, patch, strict=True))


def _dividing(edge: int, voxels: int) -> int:
    """Largest power of two up to ``edge`` that divides an axis and leaves ``MIN_TOKENS`` on it; 1 if none does."""
    while edge > 1 and (voxels % edge or voxels // edge < MIN_TOKENS):
        edge //= 2
    return edge


def _tokens(patch: Sequence[int], size: Sequence[int]) -> int:
    return math.prod(voxels // edge for voxels, edge in zip(patch, size, strict=True))


def _merges(
    patch: Sequence[int], spacing_mm: Sequence[float], size: Sequence[int]
) -> tuple[tuple[tuple[int, ...], ...], list[tuple[int, ...]]]:
    """Merging on entering each stage, and the token grid of each stage."""
    grid = tuple(voxels // edge for voxels, edge in zip(patch, size, strict=True))
    length_mm = [edge * spacing for edge, spacing in zip(size, spacing_mm, strict=True)]
    merges, grids = [tuple(1 for _ in grid)], [grid]
    while len(merges) < MAX_STAGES:
        mergeable = [tokens % 2 == 0 and tokens // 2 >= MIN_TOKENS for tokens in grid]
        if not any(mergeable):
            break
        finest = min(length for length, possible in zip(length_mm, mergeable, strict=True) if possible)
        step = tuple(
            2 if possible and length / finest < SIMILAR_SPACING else 1
            for length, possible in zip(length_mm, mergeable, strict=True)
        )
        grid = tuple(tokens // factor for tokens, factor in zip(grid, step, strict=True))
        length_mm = [length * factor for length, factor in zip(length_mm, step, strict=True)]
        merges.append(step)
        grids.append(grid)
    return tuple(merges), grids


def _window(lengths: Sequence[int], dims: int) -> int:
    """The edge that pads an axis least over all stages; stages shorter than the edge are one window."""

    def padding(edge: int) -> float:
        return sum((math.ceil(length / edge) * edge - length) / length for length in lengths if length > edge)

    return min(min(WINDOWS[dims], key=padding), max(lengths))


def _head_width(embed_dim: int) -> int:
    """Channels per attention head: 32 as in Swin where that divides, else 16 or 24."""
    if embed_dim >= 96 and embed_dim % 32 == 0:
        return 32
    return 16 if embed_dim % 16 == 0 else 24
