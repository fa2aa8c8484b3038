"""The residual block of nnU-Net's residual encoders (Isensee et al., nnU-Net Revisited, MICCAI 2024).

ResNet-D (He et al., Bag of Tricks, CVPR 2019): where a block downsamples, its shortcut averages instead of skipping voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut: ``(B, C_in, *spatial)`` to ``(B, C, *spatial / stride)``.

    The scale of the second normalisation starts at 0, so a new block passes its shortcut on.

    Args:
        spatial_dims: 2 or 3.
        in_channels, channels: widths.
        kernel, stride: of the first convolution, per axis; the second has stride 1.
        initialise: fills the weights of a convolution.
        activation: makes one.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        initialise: Callable[[_ConvNd], _ConvNd],
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()

        def conv(width: int, step: Sequence[int]) -> list[nn.Module]:
            padding = tuple(size // 2 for size in kernel)
            layer = Conv[Conv.CONV, spatial_dims](width, channels, tuple(kernel), tuple(step), padding)
            return [initialise(layer), Norm[Norm.INSTANCE, spatial_dims](channels, affine=True)]

        self.path = nn.Sequential(*conv(in_channels, stride), activation(), *conv(channels, (1,) * spatial_dims))
        nn.init.zeros_(self.path[-1].get_parameter("weight"))
        shortcut: list[nn.Module] = []
        if any(step != 1 for step in stride):
            shortcut.append(Pool[Pool.AVG, spatial_dims](tuple(stride), tuple(stride)))
        if in_channels != channels:
            projection = Conv[Conv.CONV, spatial_dims](in_channels, channels, 1, bias=False)
            shortcut += [initialise(projection), Norm[Norm.INSTANCE, spatial_dims](channels, affine=True)]
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.path(x) + self.shortcut(x))
