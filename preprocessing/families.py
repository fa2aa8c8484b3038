"""CNN families and the memory each is planned for: nnU-Net's plain U-Net, and its residual encoders in three sizes.

Numbers: nnunetv2 2.8, ``default_experiment_planner.py`` and ``residual_unets/residual_encoder_unet_planners.py``. ``--preset``
chooses one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6)
"""Residual blocks of each encoder stage; a decoder stage has one convolution."""


@dataclass(frozen=True)
class Family:
    """What is planned for.

    Args:
        preset: of the CNN's plan: ``plan`` or ``resenc``.
        reference_count: by dimension, feature-map voxels of one patch at which the reference batch fills ``memory_gb``.
        memory_gb: memory that the counts are for; the default budget on a GPU.
        dataset_share: a batch covers at most this share of the data set's voxels.
        convs_per_stage: convolutions of a decoder stage, and of an encoder stage without blocks.
        fills_with_reference_batch: the patch shrinks until the reference batch fits (12 slices in 2-D), not just two patches.
    """

    preset: str
    reference_count: Mapping[int, float]
    memory_gb: float
    dataset_share: float
    convs_per_stage: int
    fills_with_reference_batch: bool

    def blocks(self, stages: int) -> tuple[int, ...]:
        """Residual blocks of each encoder stage; none in a plain U-Net."""
        return BLOCKS[:stages] if self.preset == "resenc" else ()


PLAIN = Family("plan", {2: 8.5e7, 3: 5.6e8}, 8.0, 0.05, 2, False)
FAMILIES = {
    "plan": PLAIN,
    "resenc_m": Family("resenc", {2: 1.35e8, 3: 6.8e8}, 8.0, 1.0, 1, True),
    "resenc_l": Family("resenc", {2: 3.8e8, 3: 2.1e9}, 24.0, 1.0, 1, True),
    "resenc_xl": Family("resenc", {2: 5.6e8, 3: 3.6e9}, 40.0, 1.0, 1, True),
}
