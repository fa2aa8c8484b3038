"""Swin blocks against plain attention over all tokens, and against MONAI's where MONAI's are right."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import swin_unetr
from torch import Tensor

from mcsc_bundle.networks.swin_blocks import (
    PatchExpanding,
    PatchMerging,
    SwinBlock,
    fit_window,
    window_partition,
    window_reverse,
)

GRIDS = [  # grid, window
    ((1, 8, 8), (1, 4, 4)),  # 2-D, even
    ((4, 4, 8), (2, 2, 4)),  # 3-D, even
    ((1, 7, 6), (1, 4, 4)),  # padded
    ((3, 5, 4), (2, 3, 4)),  # padded on two axes, one window on the third
    ((2, 3, 9), (4, 4, 4)),  # smaller than the window on two axes
]


def plain_attention(block: SwinBlock, x: Tensor) -> Tensor:
    """Attention of every token to every token, with a mask by coordinates: no windows, no rolling, no padding."""
    grid, attn = x.shape[1:4], block.attn
    window, shift, _ = fit_window(list(grid), block.window, block.shifted)
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid))  # (tokens, 3)
    rooms = torch.div(places - torch.tensor(shift), torch.tensor(window), rounding_mode="floor")
    together = (rooms[:, None] == rooms[None, :]).all(-1)
    reach = torch.tensor(block.window)
    offset = (places[:, None] - places[None, :] + reach - 1).clamp(torch.zeros(3), 2 * reach - 2).long()
    row = (offset[..., 0] * (2 * reach[1] - 1) + offset[..., 1]) * (2 * reach[2] - 1) + offset[..., 2]
    tokens = x.flatten(1, 3)
    query, key, value = attn.qkv(tokens).chunk(3, dim=-1)
    outputs = []
    for head, (q, k, v) in enumerate(zip(*(part.chunk(attn.heads, -1) for part in (query, key, value)), strict=True)):
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + attn.relative_position_bias_table[row, head]
        outputs.append(scores.masked_fill(~together, -torch.inf).softmax(-1) @ v)
    return attn.proj(torch.cat(outputs, -1)).view(x.shape)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), GRIDS)
def test_block_equals_plain_attention(grid: tuple[int, ...], window: tuple[int, ...], shifted: bool) -> None:
    torch.manual_seed(0)
    block = SwinBlock(8, 2, window, shifted)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(2, *grid, 8)
    attended = x + plain_attention(block, block.norm1(x))
    torch.testing.assert_close(block(x), attended + block.mlp(block.norm2(attended)))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), GRIDS[:2])
def test_block_equals_monais_on_even_grids(grid: tuple[int, ...], window: tuple[int, ...], shifted: bool) -> None:
    axes = slice(1, None) if grid[0] == 1 else slice(None)
    grid, small = grid[axes], window[axes]
    shift = [size // 2 if shifted else 0 for size in small]
    block, monai_block = SwinBlock(8, 2, window, shifted), swin_unetr.SwinTransformerBlock(8, 2, small, shift)
    weights = {name.replace("mlp.fc", "mlp.linear"): value for name, value in block.state_dict().items()}
    missing, unexpected = monai_block.load_state_dict(weights, strict=False)
    assert missing == ["attn.relative_position_index"] and not unexpected
    mask = swin_unetr.compute_mask(grid, small, shift, "cpu") if shifted else None
    x = torch.randn(2, *grid, 8)
    ours = block(x.unsqueeze(1))[:, 0] if len(grid) == 2 else block(x)
    torch.testing.assert_close(ours, monai_block(x, mask))


def test_opposite_borders_do_not_see_each_other() -> None:
    """Rolling puts the first and the last tokens in one window; the mask keeps them apart."""
    block, x = SwinBlock(4, 1, (1, 1, 4), shifted=True), torch.randn(1, 1, 1, 8, 4)
    changed = x.clone()
    changed[..., 0, :] += torch.randn(4)
    moved = (block(x) != block(changed)).any(-1).flatten()
    assert moved.tolist() == [True, True, False, False, False, False, False, False]


def test_window_partition_is_undone() -> None:
    x = torch.randn(2, 4, 6, 3, 5)
    windows = window_partition(x, [2, 3, 1])
    assert windows.shape == (2, 12, 6, 5)
    assert torch.equal(window_reverse(windows, [2, 3, 1], [4, 6, 3]), x)


def test_window_is_cut_to_the_grid_and_then_not_shifted() -> None:
    assert fit_window([3, 8, 10], [4, 4, 4], True) == ([3, 4, 4], [0, 2, 2], [0, 0, 2])


def test_merging_equals_monais() -> None:
    ours, monais = PatchMerging(3, 6, (1, 2, 2)), swin_unetr.PatchMergingV2(3, spatial_dims=2)
    monais.load_state_dict(ours.state_dict())
    x = torch.randn(2, 1, 4, 6, 3)
    torch.testing.assert_close(ours(x)[:, 0], monais(x[:, 0]))


def test_uneven_merging_joins_the_right_tokens() -> None:
    merge = PatchMerging(1, 2, (1, 1, 2))
    merge.norm = torch.nn.Identity()
    merge.reduction.weight.data = torch.eye(2)
    assert merge(torch.tensor([1.0, 2, 3, 4]).view(1, 1, 1, 4, 1)).flatten(0, 3).tolist() == [[1, 2], [3, 4]]


def test_expanding_splits_each_token_in_place() -> None:
    expand = PatchExpanding(1, 1, (1, 1, 2))
    expand.norm = torch.nn.Identity()
    expand.expand.weight.data = torch.tensor([[1.0], [10.0]])
    assert expand(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2, 1)).flatten().tolist() == [1, 10, 2, 20]


def test_stochastic_depth_keeps_whole_samples_and_their_mean() -> None:
    torch.manual_seed(0)
    block = SwinBlock(4, 1, (1, 2, 2), False, drop_path=0.2)
    kept = block._drop_path(torch.ones(2000, 1, 1, 1, 4)).flatten(1)
    assert set(kept.unique().tolist()) == {0.0, 1.25}
    assert (kept == kept[:, :1]).all()
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(block.eval()._drop_path(torch.ones(1)), torch.ones(1))


def test_padding_does_not_change_what_tokens_see() -> None:
    """A grid of 5 in windows of 4: the last token is alone in its window, so it attends to itself only."""
    block, x = SwinBlock(4, 1, (1, 1, 4), shifted=False), torch.randn(1, 1, 1, 5, 4)
    last = x[:, :, :, 4:]
    attended = last + block.attn.proj(block.attn.qkv(block.norm1(last))[..., 8:])
    torch.testing.assert_close(block(x)[:, :, :, 4:], attended + block.mlp(block.norm2(attended)))
    assert F.mse_loss(block(x)[:, :, :, 4:], block(last)) < 1e-10


@pytest.mark.parametrize(("grid", "window"), GRIDS)
@pytest.mark.parametrize("shifted", [False, True])
def test_the_bias_is_laid_out_as_fused_attention_on_a_gpu_wants_it(monkeypatch, grid, window, shifted):
    """Another layout of the last axis is computed there without fusion, in float32 and without a word."""
    masks, fused = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda q, k, v, attn_mask: (masks.append(attn_mask), fused(q, k, v, attn_mask))[1],
    )
    SwinBlock(12, 3, window, shifted)(torch.randn(2, *grid, 12))
    assert [mask.stride(-1) for mask in masks] == [1]
