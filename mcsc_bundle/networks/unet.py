"""U-Net shaped by the plan: strided convolutions down, transposed convolutions up, skips concatenated.

Ronneberger et al., U-Net, 2015; in the plain form of Isensee et al., nnU-Net, 2021 (dynamic_network_architectures: unet.py,
PlainConvUNet), with its residual encoder (ResidualEncoderUNet), preset ``resenc``, or in the 2-D form the MCSC authors trained
(SSL4MIS: networks/unet.py), preset ``paper``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mcsc_bundle.networks.residual import ResidualBlock
from mcsc_bundle.plan import Plan

PAPER_DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)  # of each encoder stage, full size to bottleneck; the decoder has none
NEGATIVE_SLOPE = 0.01


class UNet(nn.Module):
    """U-Net with any stride and kernel per axis and stage.

    Args:
        spatial_dims: 2 or 3.
        in_channels, out_channels: image channels and classes (background included).
        features: channels of each stage, full size to bottleneck.
        kernel_sizes: kernel of each stage per axis; odd.
        strides: downsampling on entering each stage per axis; ones in the first.
        convs_per_stage: convolutions in each encoder and decoder stage.
        preset: ``plan``; ``resenc``: a residual encoder; or ``paper``: SSL4MIS 2-D U-Net with batch norm, dropout, max-pooling
            and bilinear upsampling, five stages, 3 x 3 kernels, stride 2, two convolutions (1.8 M parameters with 16 features
            at full size).
        blocks_per_stage: residual blocks of each encoder stage of ``resenc``, in place of convolutions.

    Attributes:
        feature_channels, feature_strides: width and stride (input voxels per map voxel, per axis) of each map that
            ``features`` returns.
        head: pointwise (``paper``: 3 x 3) convolution from the last map to logits.

    Raises:
        ValueError: unknown preset, or a shape that the preset ``paper`` does not have.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        convs_per_stage: int = 2,
        preset: str = "plan",
        blocks_per_stage: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if preset not in ("plan", "resenc", "paper"):
            raise ValueError(f"expected preset to be 'plan', 'resenc' or 'paper', received {preset!r}.")
        parts = _PlanParts(spatial_dims, convs_per_stage)
        if preset == "resenc":
            parts = _ResidualParts(spatial_dims, convs_per_stage, blocks_per_stage)
        if preset == "paper":
            _check_paper_shape(spatial_dims, features, kernel_sizes, strides, convs_per_stage)
            parts = _PaperParts(spatial_dims, convs_per_stage)
        widths = [in_channels, *features]
        self.encoder = nn.ModuleList(
            parts.down(stage, widths[stage], widths[stage + 1], kernel_sizes[stage], strides[stage])
            for stage in range(len(features))
        )
        self.decoder = nn.ModuleList(
            UpStage(
                parts.up(features[stage + 1], features[stage], strides[stage + 1]),
                parts.block(2 * features[stage], features[stage], kernel_sizes[stage]),
            )
            for stage in reversed(range(len(features) - 1))
        )
        self.head = parts.head(features[0], out_channels)
        cumulative = torch.tensor([list(stride) for stride in strides]).cumprod(0).tolist()
        # a list: TorchScript cannot iterate over a tuple of unknown length
        self.divisor = cumulative[-1]
        self.feature_channels = tuple(reversed(features))
        self.feature_strides = tuple(tuple(stride) for stride in reversed(cumulative))

    @classmethod
    def from_plan(cls, plan: Plan) -> UNet:
        """The network that ``plan.cnn`` describes."""
        cnn = plan.cnn
        return cls(
            plan.spatial_dims,
            plan.network_channels,
            plan.out_channels,
            cnn.features,
            cnn.kernel_sizes,
            cnn.strides,
            cnn.convs_per_stage,
            cnn.preset,
            cnn.blocks_per_stage,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, out_channels, *spatial)`` of an image batch ``(B, in_channels, *spatial)``.

        Each spatial size must be a multiple of ``feature_strides[0]``.
        """
        return self.head(self.features(x)[-1])

    @torch.jit.export
    def features(self, x: Tensor) -> list[Tensor]:
        """Maps ``(B, C, *spatial)`` coarse to fine: the bottleneck, then each decoder stage; the last has full size."""
        self._check_size(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        maps = [skips.pop()]
        for up_stage in self.decoder:
            maps.append(up_stage(maps[-1], skips.pop()))
        return maps

    def _check_size(self, x: Tensor) -> None:
        for axis, divisor in enumerate(self.divisor):
            size = x.size(axis + 2)
            if size % divisor != 0:
                raise ValueError(
                    f"U-Net: expected a multiple of {divisor} on spatial axis {axis}, received {size}. Pad the image, "
                    "or use a sliding window of the plan's patch size."
                )


class UpStage(nn.Module):
    """One decoder stage: upsample, concatenate the skip, convolve.

    Args:
        up: brings ``(B, C_coarse, *coarse)`` to ``(B, C, *fine)``.
        block: ``(B, 2 C, *fine)`` to ``(B, C, *fine)``.
    """

    def __init__(self, up: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.up = up
        self.block = block

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([skip, self.up(x)], dim=1))


class _PlanParts:
    """Layers of nnU-Net's plain U-Net: convolution, instance norm, leaky ReLU; He initialisation."""

    def __init__(self, spatial_dims: int, convs_per_stage: int) -> None:
        self.dims, self.convs = spatial_dims, convs_per_stage

    def block(
        self, in_channels: int, channels: int, kernel: Sequence[int], stride: Sequence[int] = ()
    ) -> nn.Sequential:
        layers: list[nn.Module] = []
        for index in range(self.convs):
            step = tuple(stride) if stride and index == 0 else (1,) * self.dims
            width = in_channels if index == 0 else channels
            padding = tuple(size // 2 for size in kernel)
            conv = Conv[Conv.CONV, self.dims](width, channels, tuple(kernel), step, padding)
            layers += [he(conv), Norm[Norm.INSTANCE, self.dims](channels, affine=True), _activation()]
        return nn.Sequential(*layers)

    def down(
        self, stage: int, in_channels: int, channels: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> nn.Sequential:
        return self.block(in_channels, channels, kernel, stride)

    def up(self, in_channels: int, channels: int, stride: Sequence[int]) -> nn.Module:
        return he(Conv[Conv.CONVTRANS, self.dims](in_channels, channels, tuple(stride), tuple(stride)))

    def head(self, channels: int, out_channels: int) -> nn.Module:
        return he(Conv[Conv.CONV, self.dims](channels, out_channels, 1))


class _ResidualParts(_PlanParts):
    """nnU-Net's residual encoder: a stem of one convolution, then residual blocks; the decoder is the plain one's."""

    def __init__(self, spatial_dims: int, convs_per_stage: int, blocks: Sequence[int]) -> None:
        super().__init__(spatial_dims, convs_per_stage)
        self.blocks = blocks

    def down(
        self, stage: int, in_channels: int, channels: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> nn.Sequential:
        layers: list[nn.Module] = []
        if stage == 0:
            layers += _PlanParts(self.dims, 1).block(in_channels, channels, kernel)
            in_channels = channels
        for index in range(self.blocks[stage]):
            step = tuple(stride) if index == 0 else (1,) * self.dims
            width = in_channels if index == 0 else channels
            layers.append(ResidualBlock(self.dims, width, channels, kernel, step, he, _activation))
        return nn.Sequential(*layers)


class _PaperParts(_PlanParts):
    """Layers of the SSL4MIS 2-D U-Net, with PyTorch's default initialisation and a Xavier-normal head."""

    def block(
        self, in_channels: int, channels: int, kernel: Sequence[int], stride: Sequence[int] = (), dropout: float = 0.0
    ) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            _activation(),
            nn.Dropout(dropout),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            _activation(),
        )

    def down(
        self, stage: int, in_channels: int, channels: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> nn.Sequential:
        pool = [nn.MaxPool2d(2)] if stage > 0 else []
        return nn.Sequential(*pool, self.block(in_channels, channels, kernel, dropout=PAPER_DROPOUT[stage]))

    def up(self, in_channels: int, channels: int, stride: Sequence[int]) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(in_channels, channels, 1),
            nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True),
        )

    def head(self, channels: int, out_channels: int) -> nn.Module:
        head = nn.Conv2d(channels, out_channels, 3, padding=1)
        nn.init.xavier_normal_(head.weight)
        return head


def _activation() -> nn.Module:
    return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)


def he(conv: _ConvNd) -> _ConvNd:
    """The convolution with nnU-Net's first weights (He et al., 2015)."""
    nn.init.kaiming_normal_(conv.weight, a=NEGATIVE_SLOPE)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _check_paper_shape(
    spatial_dims: int,
    features: Sequence[int],
    kernel_sizes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    convs_per_stage: int,
) -> None:
    stages = len(PAPER_DROPOUT)
    expected = (2, stages, [[3, 3]] * stages, [[1, 1]] + [[2, 2]] * (stages - 1), 2)
    kernels, steps = [list(kernel) for kernel in kernel_sizes], [list(stride) for stride in strides]
    received = (spatial_dims, len(features), kernels, steps, convs_per_stage)
    if received != expected:
        raise ValueError(
            "U-Net preset 'paper': expected 2 dimensions, 5 stages, 3 x 3 kernels, stride 2 and 2 convolutions in each "
            f"stage, received (dimensions, stages, kernels, strides, convolutions) = {received}. Use preset 'plan'."
        )
