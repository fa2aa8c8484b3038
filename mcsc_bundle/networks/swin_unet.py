"""Swin-Unet: a U-Net made of Swin Transformer blocks only, in 2-D and 3-D.

Cao et al., Swin-Unet: Unet-like pure Transformer for medical image segmentation, 2021. We differ in that patches and
merging may be uneven (thick slices), any input size is taken, and depth 3 is possible. The paper's network starts from
ImageNet weights; a plan's starts from nothing, and then learns too slowly to teach, so that it also differs in its first
weights and in a convolution at full size (``SwinUNet``; measured in ``docs/benchmarks.md``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from mcsc_bundle.networks.swin_blocks import PatchExpanding, PatchMerging, SwinBlock
from mcsc_bundle.plan import Plan
from mcsc_bundle.plan_parts import full_size_channels

PAPER_DROP_PATH = 0.2
PAPER_STD = 0.02


class SwinUNet(nn.Module):
    """Swin-Unet with any patch, window and merging per axis.

    Args:
        spatial_dims: 2 or 3.
        in_channels, out_channels: image channels and classes (background included).
        patch: voxels per token, per axis.
        merges: tokens merged on entering each stage, per axis; ones in the first.
        embed_dim: width of the first stage; doubles at each stage.
        depths: Swin blocks of each encoder stage; the decoder's stage of the same resolution takes as many.
        heads: attention heads of each stage.
        window: tokens per attention window, per axis.
        preset: ``plan``, or ``paper``: the map at full size keeps all ``embed_dim`` channels, stochastic depth up to
            0.2, a grey image is repeated to the three channels of ImageNet weights. The plan's map at full size has 16
            channels, as the paper's CNN: at full size 96 channels would take more memory and time than the rest. Its linear
            layers start with a deviation of ``1 / sqrt(inputs)`` instead of 0.02, which is that of 2500 inputs and all but
            silences narrow ones.
        joins_image: add what one convolution sees in the image to the map at full size: tokens of 4 voxels alone give no
            edges (UNETR and SwinUNETR, Hatamizadeh et al., 2022, join the image there, too).

    Attributes:
        feature_channels, feature_strides: width and stride (input voxels per map voxel, per axis) of each map that
            ``features`` returns.
        head: 3 x 3 (x 3) convolution from the last map to logits.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        patch: Sequence[int],
        merges: Sequence[Sequence[int]],
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: Sequence[int],
        preset: str = "plan",
        joins_image: bool = False,
    ) -> None:
        super().__init__()
        if preset not in ("plan", "paper"):
            raise ValueError(f"expected preset to be 'plan' or 'paper', received {preset!r}.")
        paper = preset == "paper"
        self.flat = spatial_dims == 2
        self.repeat_grey = paper and in_channels == 1
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        factors = [_three(merge) for merge in merges]
        rates = torch.linspace(0, PAPER_DROP_PATH if paper else 0.0, sum(depths)).split(list(depths))

        def blocks(stage: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    SwinBlock(widths[stage], heads[stage], _three(window), shifted=index % 2 == 1, drop_path=rate)
                    for index, rate in enumerate(rates[stage].tolist())
                )
            )

        self.patch_embed = PatchEmbedding(spatial_dims, 3 if self.repeat_grey else in_channels, embed_dim, patch)
        self.encoder = nn.ModuleList(
            EncoderStage(
                PatchMerging(widths[stage - 1], widths[stage], factors[stage]) if stage > 0 else nn.Identity(),
                blocks(stage),
            )
            for stage in range(len(depths))
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.decoder = nn.ModuleList(
            DecoderStage(
                PatchExpanding(widths[stage + 1], widths[stage], factors[stage + 1]), widths[stage], blocks(stage)
            )
            for stage in reversed(range(len(depths) - 1))
        )
        self.norm_up = nn.LayerNorm(embed_dim)
        full_size = full_size_channels(preset, embed_dim)
        self.up = PatchExpanding(embed_dim, full_size, _three(patch))
        self.apply(lambda module: initialise(module, PAPER_STD if paper else None))
        self.joins_image = joins_image
        self.stem = full_size_stem(spatial_dims, in_channels, full_size) if joins_image else nn.Identity()
        self.head = Conv[Conv.CONV, spatial_dims](full_size, out_channels, 3, padding=1)
        nn.init.xavier_normal_(self.head.weight)

        strides = (torch.tensor([list(patch)]) * torch.tensor([list(merge) for merge in merges]).cumprod(0)).tolist()
        # a list: TorchScript cannot iterate over a tuple of unknown length
        self.divisor = strides[-1]
        self.feature_channels = (*reversed(widths), full_size)
        self.feature_strides = (
            *(tuple(stride) for stride in reversed(strides)),
            (1,) * spatial_dims,
        )

    @classmethod
    def from_plan(cls, plan: Plan) -> SwinUNet:
        """The network that ``plan.transformer`` describes."""
        swin = plan.transformer
        return cls(
            plan.spatial_dims,
            plan.network_channels,
            plan.out_channels,
            swin.patch,
            swin.merges,
            swin.embed_dim,
            swin.depths,
            swin.heads,
            swin.window,
            swin.preset,
            swin.joins_image,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, out_channels, *spatial)`` of an image batch ``(B, in_channels, *spatial)`` of any size."""
        return self.head(self.features(x)[-1])

    @torch.jit.export
    def features(self, x: Tensor) -> list[Tensor]:
        """Maps ``(B, C, *spatial)`` coarse to fine; the last has full size.

        The bottleneck, then what each decoder stage gets from the coarser one before its skip joins (where the MCSC
        authors take their contrastive features), then the full-size map. A map of stride s covers an image of size n
        with ceil(n / s) voxels.
        """
        size = list(x.shape[2:])
        if self.repeat_grey:
            x = x.repeat_interleave(3, dim=1)
        tokens = self.patch_embed(self._pad(x))
        skips: list[Tensor] = []
        for stage in self.encoder:
            tokens, skip = stage(tokens)
            skips.append(skip)
        skips.pop()
        tokens = self.norm(tokens)
        maps = [tokens]
        for up_stage in self.decoder:
            tokens, expanded = up_stage(tokens, skips.pop())
            maps.append(expanded)
        maps.append(self.up(self.norm_up(tokens)))
        result = [self._channels_first(tokens, size) for tokens in maps]
        if self.joins_image:
            result[-1] = result[-1] + self.stem(x)
        return result

    def _pad(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for axis, divisor in enumerate(self.divisor):
            missing = (divisor - x.size(axis + 2) % divisor) % divisor
            padding = [0, missing] + padding  # noqa: RUF005 (TorchScript); F.pad counts from the last axis
        return F.pad(x, padding) if max(padding) > 0 else x

    def _channels_first(self, tokens: Tensor, size: list[int]) -> Tensor:
        x = tokens.permute(0, 4, 1, 2, 3)
        if self.flat:
            x = x.squeeze(2)
        for axis, divisor in enumerate(self.divisor):
            padded = (size[axis] + divisor - 1) // divisor * divisor
            stride = padded // x.size(axis + 2)
            covering = (size[axis] + stride - 1) // stride
            if covering < x.size(axis + 2):
                x = x.narrow(axis + 2, 0, covering)
        return x


class PatchEmbedding(nn.Module):
    """Image ``(B, C_in, *spatial)`` to tokens ``(B, D, H, W, C)``: a linear map of each patch, then LayerNorm."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.flat = spatial_dims == 2
        self.proj = Conv[Conv.CONV, spatial_dims](in_channels, channels, tuple(patch), tuple(patch))
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        if self.flat:
            x = x.unsqueeze(2)
        return self.norm(x.permute(0, 2, 3, 4, 1))


class EncoderStage(nn.Module):
    """Merge (but in the first stage), then Swin blocks. Returns their output and their input, which is the skip."""

    def __init__(self, merge: nn.Module, blocks: nn.Module) -> None:
        super().__init__()
        self.merge = merge
        self.blocks = blocks

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.merge(x)
        return self.blocks(skip), skip


class DecoderStage(nn.Module):
    """Expand, fuse with the skip by a linear map, then Swin blocks. Returns their output and the expanded tokens."""

    def __init__(self, expand: nn.Module, channels: int, blocks: nn.Module) -> None:
        super().__init__()
        self.expand = expand
        self.fuse = nn.Linear(2 * channels, channels)
        self.blocks = blocks

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        expanded = self.expand(x)
        return self.blocks(self.fuse(torch.cat([expanded, skip], dim=-1))), expanded


def _three(values: Sequence[int]) -> tuple[int, int, int]:
    """Two axes as three: a 2-D image is a volume of depth 1."""
    first, second, third = (1, *values) if len(values) == 2 else values
    return first, second, third


def full_size_stem(spatial_dims: int, in_channels: int, channels: int) -> nn.Sequential:
    """Convolution, instance normalisation and LeakyReLU, as in the plan's CNN: ``(B, in_channels, *spatial)`` to ``channels``."""
    return nn.Sequential(
        Conv[Conv.CONV, spatial_dims](in_channels, channels, 3, padding=1),
        Norm[Norm.INSTANCE, spatial_dims](channels, affine=True),
        nn.LeakyReLU(0.01),
    )


def initialise(module: nn.Module, std: float | None) -> None:
    """Weights of linear layers, of this deviation (``None``: ``1 / sqrt(inputs)``); biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5 if std is None else std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
