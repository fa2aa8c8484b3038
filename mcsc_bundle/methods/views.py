"""Strong views of a batch, made on the device: intensity changes and mixing by boxes (CutMix, bidirectional copy-paste)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def random_boxes(batch: int, shape: tuple[int, ...], low: float, high: float, device: torch.device) -> Tensor:
    """Boolean masks ``(B, 1, *shape)`` of one box each, covering a share of the volume drawn from ``[low, high]``.

    The box's sides are the same share of each axis up to a factor drawn in [0.75, 1.33], then clipped to the image.
    No device synchronisation: positions are compared with coordinate grids.
    """
    dims = len(shape)
    share = torch.empty(batch, 1, device=device).uniform_(low, high) ** (1 / dims)
    aspect = torch.empty(batch, dims, device=device).uniform_(-0.29, 0.29).exp()
    side = (share * aspect / aspect.log().mean(1, keepdim=True).exp()).clamp(max=1.0)
    start = torch.rand(batch, dims, device=device) * (1 - side)
    mask = torch.ones((batch, 1) + (1,) * dims, dtype=torch.bool, device=device)
    for axis, size in enumerate(shape):
        centre = (torch.arange(size, device=device) + 0.5) / size
        inside = (centre >= start[:, axis, None]) & (centre < (start + side)[:, axis, None])
        mask = mask & inside.view((batch, 1) + (1,) * axis + (size,) + (1,) * (dims - axis - 1))
    return mask


def one_box(shape: tuple[int, ...], share: float, device: torch.device) -> Tensor:
    """Boolean mask ``(1, 1, *shape)`` of one box anywhere in the image, ``share`` of every axis long (rounded down, 1 at least).

    Its position comes from the CPU's random state, so that nothing is read back from the device.
    """
    dims = len(shape)
    mask = torch.ones((1, 1) + (1,) * dims, dtype=torch.bool, device=device)
    for axis, size in enumerate(shape):
        side = max(1, int(size * share))
        start = int(torch.randint(size - side + 1, ()))
        position = torch.arange(size, device=device)
        inside = (position >= start) & (position < start + side)
        mask = mask & inside.view((1, 1) + (1,) * axis + (size,) + (1,) * (dims - axis - 1))
    return mask


def strong_intensity(image: Tensor, flat_axis: int | None = None, unscaled: Sequence[int] = ()) -> Tensor:
    """Brightness, contrast, gamma and blur drawn per sample and channel, for images ``(B, C, *spatial)``.

    UniMatch's medical recipe (Yang et al., 2023: colour jitter with probability 0.8, blur 0.5), of one-channel scans there:
    contrast and brightness by up to a half, gamma 0.5 to 2 on the channel's own range. A half of what: of 1, which is about the
    deviation of a normalised image.

    Args:
        image: see above.
        flat_axis: without blur, as its few, thick slices show different tissue.
        unscaled: channels that are not normalised; their brightness is in units of the patch's deviation.
    """
    dims = image.ndim - 2
    column = (*image.shape[:2], *[1] * dims)
    spatial = tuple(range(2, image.ndim))

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(column, device=image.device).uniform_(low, high)

    low = image.amin(dim=spatial, keepdim=True)
    span = image.amax(dim=spatial, keepdim=True) - low + 1e-6
    curved = ((image - low) / span).pow(uniform(-0.69, 0.69).exp()) * span + low
    mean = curved.mean(dim=spatial, keepdim=True)
    stretched = (curved - mean) * uniform(0.5, 1.5) + mean
    shift = uniform(-0.5, 0.5)
    for channel in unscaled:
        shift[:, channel] *= image[:, channel].std(dim=tuple(range(1, dims + 1)), keepdim=True, correction=0)
    jittered = torch.where(uniform(0, 1) < 0.8, stretched + shift, image)
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    kernel = tuple(  # PyTorch pools no axis shorter than its kernel
        3 if size > 2 and axis != flat_axis else 1 for axis, size in enumerate(image.shape[2:])
    )
    blurred = pool(jittered, kernel, stride=1, padding=tuple(size // 2 for size in kernel), count_include_pad=False)
    return torch.where(uniform(0, 1) < 0.5, blurred, jittered)
