"""Swin Transformer blocks, patch merging and patch expanding on token grids ``(B, D, H, W, C)``.

Liu et al., Swin Transformer, 2021; Cao et al., Swin-Unet, 2021 (expanding). Names of the parameters follow the official
Swin code, so its checkpoints fit. A 2-D image is a grid of depth 1: one code for 2-D and 3-D, with the same parameters.

MONAI's blocks (monai.networks.nets.swin_unetr) give the same values, but merge by 2 on every axis, index the position
bias wrongly when the grid is smaller than the window, let tokens attend to padding, and keep all attention weights for
the backward pass; these use PyTorch's fused attention instead.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcsc_bundle.constants import kept


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window, with a learnt bias per relative position and head.

    Args:
        channels: width of the tokens.
        heads: attention heads; divides ``channels``.
        window: largest window, in tokens per axis.
    """

    def __init__(self, channels: int, heads: int, window: Sequence[int]) -> None:
        super().__init__()
        self.heads = heads
        self.window = list(window)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty(math.prod(2 * size - 1 for size in window), heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, window: list[int], blocked: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: tokens by window ``(B, windows, N, C)``, N = product of ``window``.
            window: extent of these windows, at most the largest.
            blocked: ``(windows, N, N)``, True where a query (row) must not see a key (column); ``None``: all see all.
        """
        batch, windows, tokens, channels = x.shape
        qkv = self.qkv(x).view(batch, windows, tokens, 3, self.heads, channels // self.heads).permute(3, 0, 1, 4, 2, 5)
        bias = self._position_bias(window, tokens).to(qkv.dtype)  # (heads, N, N)
        if blocked is None:
            qkv = qkv.flatten(1, 2)  # (3, B * windows, heads, N, C / heads)
        else:  # windows beside heads: one bias serves the whole batch
            bias = bias.masked_fill(blocked.unsqueeze(1), float("-inf")).flatten(0, 1)
            qkv = qkv.flatten(2, 3)  # (3, B, windows * heads, N, C / heads)
        query, key, value = qkv.unbind(0)  # its gradient is one stack, that of three selections three of zeros
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.unsqueeze(0))
        out = out.reshape(batch, windows, self.heads, tokens, channels // self.heads).transpose(2, 3)
        out = out.clone(memory_format=torch.contiguous_format)  # its strides vary by kernel, which ONNX export trips on
        return self.proj(out.view(batch, windows, tokens, channels))

    def _position_bias(self, window: list[int], tokens: int) -> Tensor:
        device = self.relative_position_bias_table.device
        if torch.jit.is_scripting():
            index = relative_position_index(window, self.window, device)
        else:
            index = kept(relative_position_index, device, window, self.window)
        bias = F.embedding(index, self.relative_position_bias_table).view(tokens, tokens, self.heads)
        return bias.permute(2, 0, 1).contiguous()  # a GPU's fused attention takes no other, and would not say so


class SwinBlock(nn.Module):
    """Window attention and a two-layer perceptron, four times as wide inside, each after a LayerNorm and added to its input.

    A window is cut down to the grid where the grid is smaller. Grids that are no multiple of the window are padded
    inside; no token attends to padding.

    Args:
        channels, heads, window: see ``WindowAttention``.
        shifted: move the windows by half a window, so that neighbouring windows exchange information.
        drop_path: probability of leaving a branch out for a sample in training (stochastic depth).
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: Sequence[int],
        shifted: bool,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.window = list(window)
        self.shifted = shifted
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        hidden = 4 * channels
        layers = {"fc1": nn.Linear(channels, hidden), "act": nn.GELU(), "fc2": nn.Linear(hidden, channels)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop_path(self._attend(self.norm1(x)))
        return x + self._drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        grid = list(x.shape[1:4])
        window, shift, padding = fit_window(grid, self.window, self.shifted)
        if max(padding) > 0:
            x = F.pad(x, [0, 0, 0, padding[2], 0, padding[1], 0, padding[0]])
        padded = list(x.shape[1:4])
        blocked: Tensor | None = None
        if max(shift) > 0:
            x = torch.roll(x, [-shift[0], -shift[1], -shift[2]], [1, 2, 3])
        if max(shift) > 0 or max(padding) > 0:
            if torch.jit.is_scripting():
                blocked = blocked_pairs(grid, padded, window, shift, x.device)
            else:
                blocked = kept(blocked_pairs, x.device, grid, padded, window, shift)
        x = window_reverse(self.attn(window_partition(x, window), window, blocked), window, padded)
        if max(shift) > 0:
            x = torch.roll(x, shift, [1, 2, 3])
        if max(padding) > 0:  # a cut of nothing would still copy the gradient, once for each axis
            x = x[:, : grid[0], : grid[1], : grid[2]]
        return x

    def _drop_path(self, x: Tensor) -> Tensor:
        if self.drop_path == 0.0 or not self.training:
            return x
        keep = torch.rand([x.size(0), 1, 1, 1, 1], device=x.device) >= self.drop_path
        return x * keep.to(x.dtype) / (1.0 - self.drop_path)


class PatchMerging(nn.Module):
    """Joins neighbouring tokens into one of another width: concatenate, LayerNorm, linear.

    Args:
        in_channels, out_channels: width before and after.
        factor: tokens joined per axis; the grid must be a multiple.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: tuple[int, int, int]) -> None:
        super().__init__()
        self.factor = factor
        self.norm = nn.LayerNorm(math.prod(factor) * in_channels)
        self.reduction = nn.Linear(math.prod(factor) * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.factor
        batch, depth, height, width, channels = x.shape
        x = x.view(batch, depth // a, a, height // b, b, width // c, c, channels)
        x = x.permute(0, 1, 3, 5, 6, 4, 2, 7)  # the official order: the first axis varies fastest
        return self.reduction(self.norm(x.reshape(batch, depth // a, height // b, width // c, a * b * c * channels)))


class PatchExpanding(nn.Module):
    """Splits each token into ``factor`` tokens per axis of another width: linear, rearrange, LayerNorm.

    Args:
        in_channels, out_channels: width before and after.
        factor: tokens made of one, per axis.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: tuple[int, int, int]) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(in_channels, math.prod(factor) * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.factor
        batch, depth, height, width, _ = x.shape
        x = self.expand(x).view(batch, depth, height, width, a, b, c, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return self.norm(x.reshape(batch, depth * a, height * b, width * c, -1))


def fit_window(grid: list[int], window: list[int], shifted: bool) -> tuple[list[int], list[int], list[int]]:
    """Window, shift and padding (at the end) per axis for a token grid; no shift on an axis that one window covers."""
    fitted: list[int] = []
    shift: list[int] = []
    padding: list[int] = []
    for axis, cells in enumerate(grid):
        size = min(window[axis], cells)
        fitted.append(size)
        shift.append(size // 2 if shifted and size < cells else 0)
        padding.append((size - cells % size) % size)
    return fitted, shift, padding


def window_partition(x: Tensor, window: list[int]) -> Tensor:
    """Token grid ``(B, D, H, W, C)`` to ``(B, windows, N, C)``; the grid is a multiple of the window."""
    a, b, c = window[0], window[1], window[2]
    batch, depth, height, width, channels = x.shape
    x = x.reshape(batch, depth // a, a, height // b, b, width // c, c, channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, -1, a * b * c, channels)


def window_reverse(windows: Tensor, window: list[int], grid: list[int]) -> Tensor:
    """The inverse of ``window_partition``."""
    a, b, c = window[0], window[1], window[2]
    depth, height, width = grid[0], grid[1], grid[2]
    batch, channels = windows.size(0), windows.size(3)
    x = windows.view(batch, depth // a, height // b, width // c, a, b, c, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, depth, height, width, channels)


def blocked_pairs(
    grid: list[int], padded: list[int], window: list[int], shift: list[int], device: torch.device
) -> Tensor:
    """Which tokens of a window must not attend to each other ``(windows, N, N)``, after padding and a roll by -shift.

    Rolling brings tokens from opposite image borders into one window; they are no neighbours. Tokens may attend when
    they lie on the same side of the roll's seam and both inside the image on every axis (or both are padding).
    """
    region = torch.zeros([1, padded[0], padded[1], padded[2], 1], dtype=torch.long, device=device)
    for axis in range(3):
        place = torch.arange(padded[axis], device=device)
        wrapped = place >= padded[axis] - shift[axis]
        outside = (place + shift[axis]) % padded[axis] >= grid[axis]
        shape = [1, 1, 1, 1, 1]
        shape[axis + 1] = padded[axis]
        region = 4 * region + (wrapped.long() + 2 * outside.long()).view(shape)
    region = window_partition(region, window)[0, :, :, 0]
    return region.unsqueeze(1) != region.unsqueeze(2)


def relative_position_index(window: list[int], largest: list[int], device: torch.device) -> Tensor:
    """Row of the bias table for each (query, key) of a window ``(N * N)``, in the official order of rows."""
    index = torch.zeros([1, 1, 1, 1, 1, 1], dtype=torch.long, device=device)
    for axis, reach in enumerate(largest):
        place = torch.arange(window[axis], device=device)
        query, key = [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]
        query[axis], key[axis + 3] = window[axis], window[axis]
        index = (2 * reach - 1) * index + place.view(query) - place.view(key) + reach - 1
    return index.flatten()
