"""Training augmentation as strong as nnU-Net's, from MONAI's random transforms, made from the plan.

The chain and its probabilities follow nnU-Net v2's trainer (``nnUNetTrainer.get_training_transforms``): rotation
and scaling, the intensities (``mcsc_bundle.intensity``), and mirroring. As there, where the patch holds few thick slices,
nothing is interpolated across them ("dummy 2-D"). The spatial part
draws its parameters before the patch is read, so that an enlarged region is read only where it will be rotated or scaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import Compose, RandFlipd, Randomizable, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from mcsc_bundle.cascade import PREVIOUS, SpoiledMask, joined
from mcsc_bundle.grid_sampling import rotation_matrix, sampled, sampled_labels, sampling_grid
from mcsc_bundle.intensity import KeepOutside, flat_axis, intensity_augmentation
from mcsc_bundle.plan import Plan

Sampler = Callable[[Tensor, Tensor], Tensor]


def patch_augmentation(plan: Plan) -> Compose:
    """What follows rotation and scaling: ``intensity_augmentation``, and mirroring of ``image``, ``label`` and ``previous``."""
    intensity: Any = intensity_augmentation(plan)
    flips = (
        RandFlipd(("image", "label", PREVIOUS), prob=0.5, spatial_axis=axis, allow_missing_keys=True)
        for axis in plan.mirror_axes
    )
    return Compose([KeepOutside(intensity, plan.body_channels) if plan.body_channels else intensity, *flips])


class PatchAugmentation(Randomizable, Transform):
    """Rotation and scaling in one resampling, then ``patch_augmentation``.

    Call ``draw`` first: it draws the spatial parameters and returns the size of the region to read around the patch's
    centre; then call the transform on that region. Rotation with probability 0.2 by up to 30 degrees about each axis (2-D:
    up to 180 degrees, 15 where the patch is longer than 1.5 times its width; a patch of few thick slices: up to 180 degrees
    within the slices), scaling with probability 0.2 by 0.7 to 1.4, within the slices too (nnU-Net v2).

    Args:
        plan: patch size and mirror axes.
        spatial_probability: probability of rotation, and of scaling.
    """

    def __init__(self, plan: Plan, spatial_probability: float = 0.2) -> None:
        self.patch_size = plan.patch_size
        self.spatial_probability = spatial_probability
        self.flat = flat_axis(plan)
        self.after = patch_augmentation(plan)
        self.plan, self.spoil = plan, SpoiledMask(plan)
        self.matrix: np.ndarray | None = None

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> PatchAugmentation:
        """One seed decides everything that follows."""
        super().set_random_state(seed, state)
        self.after.set_random_state(seed=int(self.R.randint(2**31)))
        if self.plan.previous_stage:
            self.spoil.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def draw(self) -> tuple[int, ...]:
        """Draw rotation and scale; return the size of the region that the resampled patch can reach."""
        rotate, scale = (self.R.rand() < self.spatial_probability for _ in range(2))
        self.matrix = None
        if not (rotate or scale):
            return self.patch_size
        factor = self.R.uniform(0.7, 1.4) if scale else 1.0
        rotation = rotation_matrix(self._angles()) if rotate else np.eye(len(self.patch_size))
        factors = [1.0 if axis == self.flat else factor for axis in range(len(self.patch_size))]
        self.matrix = (
            rotation * factors
        )  # a rotation within slices leaves their axis alone, so the order does not matter
        reach = np.abs(self.matrix) @ np.asarray(self.patch_size, dtype=float)
        return tuple(
            math.ceil(size) + 1 if size > patch + 0.5 else patch
            for size, patch in zip(reach, self.patch_size, strict=True)
        )

    def _angles(self) -> list[float]:
        """Angles in radians: one in 2-D, one about each axis in 3-D."""
        if len(self.patch_size) == 2:
            limit = 15 if max(self.patch_size) / min(self.patch_size) > 1.5 else 180
            return [math.radians(self.R.uniform(-limit, limit))]
        if self.flat is not None:
            return [math.radians(self.R.uniform(-180, 180)) if axis == self.flat else 0.0 for axis in range(3)]
        return [math.radians(self.R.uniform(-30, 30)) for _ in range(3)]

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        """Augment ``image`` ``(C, *region)`` and, where present, ``label`` ``(1, *region)`` to the patch size.

        Of a cascade, ``previous`` ``(1, *region)`` is spoiled and joins the image (``mcsc_bundle.cascade``).
        """
        data = dict(data)
        if self.matrix is not None:
            grid = self._grid(data["image"].shape[1:])
            samplers: dict[str, Sampler] = {"image": sampled, "label": sampled_labels, PREVIOUS: sampled_labels}
            data |= {key: self._resampled(data[key], grid, sample) for key, sample in samplers.items() if key in data}
        data = {key: convert_to_tensor(value, track_meta=False) for key, value in self.after(data).items()}
        if PREVIOUS in data:
            data[PREVIOUS] = self.spoil(data[PREVIOUS])
        return joined(data, self.plan)

    def _grid(self, region: Sequence[int]) -> Tensor:
        """Where in the region the voxels of a patch are taken from; of flat patches, those of one slice."""
        assert self.matrix is not None
        axes = [axis for axis in range(len(region)) if axis != self.flat]
        patch, region = ([size[axis] for axis in axes] for size in (self.patch_size, region))
        return sampling_grid(self.matrix[np.ix_(axes, axes)], patch, region)

    def _resampled(self, region: Tensor, grid: Tensor, sample: Sampler) -> Tensor:
        """``(C, *region)`` as a patch. Slices of a flat patch stay slices: they are sampled as channels of one image."""
        if self.flat is None:
            return sample(region, grid)
        slices = region.movedim(1 + self.flat, 1)
        moved = sample(slices.flatten(0, 1), grid)
        return moved.unflatten(0, slices.shape[:2]).movedim(1, 1 + self.flat)
