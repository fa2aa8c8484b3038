"""nnU-Net's intensity augmentation from MONAI's random transforms: noise, blur, brightness, contrast, low resolution, gamma.

Each channel draws its own, and where a patch holds few thick slices, they are not mixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    OneOf,
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
    Transform,
)
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F

from mcsc_bundle.plan import Plan

ANISOTROPIC_PATCH = 3.0  # nnU-Net: above this ratio of patch sides the slices of a volume are rotated alone
NOISE = 0.1  # largest standard deviation; nnU-Net names it a variance and uses it as this
BLUR = (0.5, 1.0)  # smallest and largest deviation, in voxels
NOTHING = (
    0.02  # of normalised intensity: less than this all around is outside the body (splines ring beyond its border)
)


def flat_axis(plan: Plan) -> int | None:
    """The axis along which a 3-D patch holds few, thick slices; ``None`` if there is none.

    nnU-Net's rule: the axis of the coarsest spacing (of equal ones from feet to head before front to back before left to right,
    the order in which it reads files), if the longest side of the patch is more than 3 times the one along it.
    """
    if plan.spatial_dims == 2:
        return None
    order = plan.orientation or "RAS"
    coarsest = max(range(3), key=lambda axis: (plan.spacing_mm[axis] or 0.0, "RLAPSI".index(order[axis]) // 2))
    return coarsest if max(plan.patch_size) / plan.patch_size[coarsest] > ANISOTROPIC_PATCH else None


class PerChannel(Randomizable, Transform):
    """A transform of one-channel images that each channel of ``image`` draws for itself.

    Args:
        transform: of an image ``(1, *spatial)``, random in what it does but always done.
        probability: that it is applied at all.
        channel_probability: then, of each channel.
        flat: axis whose slices are transformed as the channels of a 2-D image, so that they do not mix.
    """

    def __init__(
        self,
        transform: RandomizableTransform | OneOf,
        probability: float,
        channel_probability: float = 1.0,
        flat: int | None = None,
    ) -> None:
        self.transform, self.flat = transform, flat
        self.probability, self.channel_probability = probability, channel_probability

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> PerChannel:
        """One seed decides everything that follows."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``image`` ``(C, *spatial)`` changed, or as it was."""
        data = dict(data)
        if self.R.rand() >= self.probability:
            return data
        channels = list(convert_to_tensor(data["image"], track_meta=False).split(1))
        for index, channel in enumerate(channels):
            if self.R.rand() < self.channel_probability:
                channels[index] = self._changed(channel)
        return data | {"image": torch.cat(channels)}

    def _changed(self, channel: Tensor) -> Tensor:
        if self.flat is None:
            return convert_to_tensor(self.transform(channel), track_meta=False)
        slices = channel[0].movedim(self.flat, 0)
        return convert_to_tensor(self.transform(slices), track_meta=False).movedim(0, self.flat)[None]


class KeepOutside(Randomizable, Transform):
    """Intensity changes leave what lies outside the body 0, where normalisation was masked (nnU-Net's ``MaskImageTransform``).

    nnU-Net keeps the mask beside the label; here the outside is what is all but 0 in a voxel and its neighbours, before the
    changes.

    Args:
        change: the intensity changes of an item.
        channels: positions of the channels that were normalised inside the mask.
    """

    def __init__(self, change: Compose, channels: Sequence[int]) -> None:
        self.change, self.channels = change, list(channels)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> KeepOutside:
        """The state of the changes."""
        super().set_random_state(seed, state)
        self.change.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The changed item."""
        before, changed = torch.as_tensor(data["image"]), dict(self.change(data))
        if changed["image"] is data["image"]:  # nothing was drawn
            return changed
        outside = outside_of_body(before[self.channels])
        image = changed["image"].clone()
        image[self.channels] = torch.where(outside, 0.0, image[self.channels])
        return changed | {"image": image}


def outside_of_body(image: Tensor) -> Tensor:
    """Voxels of ``(C, *spatial)`` whose neighbourhood of 3 voxels a side, in their channel, is without any signal, as a mask."""
    signal = _widened((image.abs() >= NOTHING).float())
    return _widened(1 - signal) > 0


def _widened(mask: Tensor) -> Tensor:
    """By one voxel along each axis, one after the other: three times 3 neighbours instead of 27."""
    pool = F.max_pool2d if mask.ndim == 3 else F.max_pool3d
    for axis in range(mask.ndim - 1):
        along = [int(each == axis) for each in range(mask.ndim - 1)]
        mask = pool(mask, [1 + 2 * one for one in along], 1, along)
    return mask


class Blur(RandGaussianSmooth):
    """MONAI's, with the border's value beyond the border: there MONAI finds 0, which in a normalised image is no darkness."""

    def __call__(self, img: Tensor, randomize: bool = True) -> Tensor:
        """The image ``(C, *spatial)``, blurred."""
        margin, dims = math.ceil(4 * BLUR[1]), img.ndim - 1  # MONAI cuts its kernel off at 4 deviations
        widened = F.pad(img[None], [margin] * (2 * dims), mode="replicate")[0]
        blurred = convert_to_tensor(super().__call__(widened, randomize), track_meta=False)
        return blurred[(slice(None), *[slice(margin, -margin)] * dims)]


def intensity_augmentation(plan: Plan) -> Compose:
    """nnU-Net's intensity transforms on ``image``."""
    flat = flat_axis(plan)
    slices = plan.spatial_dims == 2 or flat is not None
    inverted, plain = _gamma(invert_image=True), _gamma()
    blur: dict[str, Any] = {f"sigma_{axis}": BLUR for axis in "xyz"[: plan.spatial_dims]}
    coarse = RandSimulateLowResolution(
        prob=1,
        zoom_range=(0.5, 1),
        downsample_mode="nearest-exact",  # MONAI's "nearest" moves the image by half a voxel and more
        upsample_mode="bilinear" if slices else "trilinear",
    )
    return Compose(
        [
            PerChannel(RandGaussianNoise(prob=1, std=NOISE, sample_std=True), 0.1),
            PerChannel(Blur(prob=1, **blur), 0.2, 0.5),
            PerChannel(RandScaleIntensity(prob=1, factors=0.25), 0.15),
            PerChannel(RandScaleIntensityFixedMean(prob=1, factors=0.25, preserve_range=True), 0.15),
            PerChannel(coarse, 0.25, 0.5, flat),
            PerChannel(inverted, 0.1),
            PerChannel(plain, 0.3),
        ]
    )


def _gamma(**kwargs: Any) -> OneOf:
    """An exponent below 1 as often as one above (nnU-Net's ``BGContrast``)."""
    return OneOf([RandAdjustContrast(prob=1, gamma=each, retain_stats=True, **kwargs) for each in ((0.7, 1), (1, 1.5))])
