"""Training augmentation as strong as nnU-Net's, from MONAI's random transforms, made from the plan.

The chain and its probabilities follow nnU-Net v2's trainer (``nnUNetTrainer.get_training_transforms``): rotation,
scaling, noise, blur, brightness, contrast, low resolution, gamma (also inverted) and mirroring. The spatial part draws
its parameters before the patch is read, so that an enlarged region is read only where it will be rotated or scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
    Transform,
)
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F

from mcsc_bundle.cascade import PREVIOUS, SpoiledMask, joined
from mcsc_bundle.plan import Plan

ANISOTROPIC_PATCH = 3.0  # nnU-Net: above this ratio of patch sides a volume is rotated slice by slice ("dummy 2-D")


def intensity_augmentation(plan: Plan) -> Compose:
    """nnU-Net's intensity transforms and mirroring on ``image`` (``label`` and ``previous`` are mirrored alone)."""
    image = "image"
    dims = plan.spatial_dims
    linear = {2: "bilinear", 3: "trilinear"}[dims]
    blur: dict[str, Any] = {f"sigma_{axis}": (0.5, 1.0) for axis in "xyz"[:dims]}
    return Compose(
        [
            RandGaussianNoised(image, prob=0.1, mean=0.0, std=math.sqrt(0.1), sample_std=True),
            RandGaussianSmoothd(image, prob=0.2, **blur),
            RandScaleIntensityd(image, prob=0.15, factors=0.25),
            RandScaleIntensityFixedMeand(image, prob=0.15, factors=0.25, preserve_range=True),
            RandSimulateLowResolutiond(image, prob=0.25, zoom_range=(0.5, 1.0), upsample_mode=linear),
            RandAdjustContrastd(image, prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            RandAdjustContrastd(image, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *(
                RandFlipd((image, "label", PREVIOUS), prob=0.5, spatial_axis=axis, allow_missing_keys=True)
                for axis in plan.mirror_axes
            ),
        ]
    )


class PatchAugmentation(Randomizable, Transform):
    """Rotation and scaling in one resampling, then ``intensity_augmentation``.

    Call ``draw`` first: it draws the spatial parameters and returns the size of the region to read around the patch's
    centre; then call the transform on that region. Rotation with probability 0.2 by up to 30 degrees about each axis (2-D
    and slice-wise: up to 180 degrees in plane; 15 where the patch is longer than 1.5 times its width), scaling with
    probability 0.2 by 0.7 to 1.4 (nnU-Net v2).

    Args:
        plan: patch size and mirror axes.
        spatial_probability: probability of rotation, and of scaling.
    """

    def __init__(self, plan: Plan, spatial_probability: float = 0.2) -> None:
        self.patch_size = plan.patch_size
        self.spatial_probability = spatial_probability
        self.intensity = intensity_augmentation(plan)
        self.plan, self.spoil = plan, SpoiledMask(plan)
        self.matrix: np.ndarray | None = None

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> PatchAugmentation:
        """One seed decides everything that follows."""
        super().set_random_state(seed, state)
        self.intensity.set_random_state(seed=int(self.R.randint(2**31)))
        if self.plan.previous_stage:
            self.spoil.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def draw(self) -> tuple[int, ...]:
        """Draw rotation and scale; return the size of the region that the resampled patch can reach."""
        rotate, scale = (self.R.rand() < self.spatial_probability for _ in range(2))
        self.matrix = None
        if not (rotate or scale):
            return self.patch_size
        factor = 1.0 if not scale else (self.R.uniform(0.7, 1.0) if self.R.rand() < 0.5 else self.R.uniform(1.0, 1.4))
        rotation = rotation_matrix(self._angles()) if rotate else np.eye(len(self.patch_size))
        self.matrix = rotation * factor
        reach = np.abs(self.matrix) @ np.asarray(self.patch_size, dtype=float)
        return tuple(
            math.ceil(size) + 1 if size > patch + 0.5 else patch
            for size, patch in zip(reach, self.patch_size, strict=True)
        )

    def _angles(self) -> list[float]:
        """Angles in radians: one in 2-D, one about each axis in 3-D; other than in-plane ones 0 for a flat patch."""
        if len(self.patch_size) == 2:
            limit = 15 if max(self.patch_size) / min(self.patch_size) > 1.5 else 180
            return [math.radians(self.R.uniform(-limit, limit))]
        flat = [max(self.patch_size) / size > ANISOTROPIC_PATCH for size in self.patch_size]
        if any(flat):
            return [math.radians(self.R.uniform(-180, 180)) if is_flat else 0.0 for is_flat in flat]
        return [math.radians(self.R.uniform(-30, 30)) for _ in flat]

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        """Augment ``image`` ``(C, *region)`` and, where present, ``label`` ``(1, *region)`` to the patch size.

        Of a cascade, ``previous`` ``(1, *region)`` is spoiled and joins the image (``mcsc_bundle.cascade``).
        """
        data = dict(data)
        if self.matrix is not None:
            grid = _sampling_grid(self.matrix, self.patch_size, data["image"].shape[1:])
            data["image"] = _sampled(data["image"], grid, "bilinear")
            for key in ("label", PREVIOUS):
                if key in data:
                    data[key] = _sampled(data[key], grid, "nearest")
        data = {key: convert_to_tensor(value, track_meta=False) for key, value in self.intensity(data).items()}
        if PREVIOUS in data:
            data[PREVIOUS] = self.spoil(data[PREVIOUS])
        return joined(data, self.plan)


def rotation_matrix(angles: list[float]) -> np.ndarray:
    """Rotation by one angle (2-D) or about the three axes in turn (3-D), angles in radians."""
    if len(angles) == 1:
        (a,) = angles
        return np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _sampling_grid(matrix: np.ndarray, patch: tuple[int, ...], region: torch.Size) -> Tensor:
    """``grid_sample`` positions ``(1, *patch, dims)``: patch voxel (from the centre) times matrix is region voxel.

    ``affine_grid`` counts in half-extents with the last axis first, hence the scaling and the flips.
    """
    half_patch, half_region = np.asarray(patch) / 2, np.asarray(region) / 2
    scaled = matrix * half_patch[None, :] / half_region[:, None]
    theta = np.concatenate([scaled[::-1, ::-1], np.zeros((len(patch), 1))], axis=1)
    return F.affine_grid(torch.as_tensor(theta[None].copy(), dtype=torch.float32), [1, 1, *patch], align_corners=False)


def _sampled(x: Tensor, grid: Tensor, mode: str) -> Tensor:
    moved = F.grid_sample(x[None].float(), grid, mode=mode, padding_mode="zeros", align_corners=False)[0]
    return moved.to(x.dtype)
