"""Shape of the Swin-UNet for a patch: token size, merging, width, heads and attention window per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcsc_bundle.plan import TransformerPlan
from preprocessing.topology import SIMILAR_SPACING

TOKEN_EDGE = 4
"""Voxels per token along the finest axis (Swin-Unet: 4 x 4)."""

FINE_TOKEN_EDGE, FINE_TOKEN_LIMIT = 2, 16_384
"""In 3-D tokens are halved while the grid stays below this many: small organs are lost in tokens of 4 x 4 x 4."""

MAX_STAGES = 4
MIN_TOKENS = 4
"""An axis is merged while this many tokens are left on it."""

BLOCKS_PER_STAGE = 2
WINDOWS = {2: (7, 8, 6, 5, 4), 3: (7, 6, 5, 4)}
"""Window edges to choose from, the preferred first (Swin: 7)."""


def plan_transformer(patch: Sequence[int], spacing_mm: Sequence[float], width: int) -> TransformerPlan:
    """A Swin-UNet whose tokens, merges and windows suit a patch of any shape.

    - Tokens are about as long in mm on every axis: a coarse axis gets fewer voxels per token, down to one.
    - An axis is merged while at least ``MIN_TOKENS`` are left on it and its tokens are less than twice the finest in
      mm.
    - The window of an axis is the edge of 4 to 7 (2-D: 8) whose multiples pad the grids of all stages least.

    Args:
        patch, spacing_mm: the CNN's patch and the target spacing, per network axis.
        width: channels of the first stage when a token is 4 voxels long; finer tokens, of which there are more, take
            half.
    """
    size, embed_dim = _token_size(patch, spacing_mm), width
    if math.prod(size) < TOKEN_EDGE ** len(patch) and max(size) == FINE_TOKEN_EDGE:
        embed_dim = max(24, width // 2)
    grid = [math.ceil(length / edge) for length, edge in zip(patch, size, strict=True)]
    merges, grids = _merges(grid, [s * edge for s, edge in zip(spacing_mm, size, strict=True)])
    heads = max(1, embed_dim // _head_width(embed_dim))
    return TransformerPlan(
        preset="plan",
        patch=size,
        merges=merges,
        embed_dim=embed_dim,
        depths=(BLOCKS_PER_STAGE,) * len(merges),
        heads=tuple(heads * 2**stage for stage in range(len(merges))),
        window=tuple(_window([stage[axis] for stage in grids], len(patch)) for axis in range(len(patch))),
    )


def _token_size(patch: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Voxels per token: powers of two, about isotropic in mm."""
    finest = min(spacing_mm)

    def tokens_of(edge: int) -> tuple[int, ...]:
        lengths = [2 ** round(math.log2(max(1.0, edge * finest / spacing))) for spacing in spacing_mm]
        return tuple(min(length, _largest_power_of_two(voxels)) for length, voxels in zip(lengths, patch, strict=True))

    fine = tokens_of(FINE_TOKEN_EDGE)
    few = math.prod(math.ceil(voxels / edge) for voxels, edge in zip(patch, fine, strict=True)) <= FINE_TOKEN_LIMIT
    return fine if few and len(patch) == 3 else tokens_of(TOKEN_EDGE)


def _merges(grid: list[int], token_mm: list[float]) -> tuple[tuple[tuple[int, ...], ...], list[list[int]]]:
    merges, grids = [tuple(1 for _ in grid)], [grid]
    while len(merges) < MAX_STAGES:
        finest = min(token_mm)
        wide = [math.ceil(tokens / 2) >= MIN_TOKENS for tokens in grids[-1]]
        similar = [length / finest < SIMILAR_SPACING for length in token_mm]
        step = tuple(2 if both else 1 for both in map(all, zip(wide, similar, strict=True)))
        if max(step) == 1:  # nothing of the finest axes is left to merge: let a coarser one catch up
            step = tuple(2 if enough else 1 for enough in wide)
        if max(step) == 1:
            break
        merges.append(step)
        grids.append([math.ceil(tokens / factor) for tokens, factor in zip(grids[-1], step, strict=True)])
        token_mm = [length * factor for length, factor in zip(token_mm, step, strict=True)]
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


def _largest_power_of_two(number: int) -> int:
    return 2 ** int(math.log2(number))
