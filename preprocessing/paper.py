"""The paper's set-up as a change to a plan: its two networks, 224 x 224 slices, its two scales, its batch."""

from __future__ import annotations

from mcsc_bundle.plan import CNNPlan, ContrastScale, Plan, TransformerPlan
from preprocessing.dataset import DatasetError

PAPER_CNN = CNNPlan(
    preset="paper",
    features=(16, 32, 64, 128, 256),
    kernel_sizes=((3, 3),) * 5,
    strides=((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)),
)
PAPER_TRANSFORMER = TransformerPlan(
    preset="paper",
    patch=(4, 4),
    merges=((1, 1), (2, 2), (2, 2), (2, 2)),
    embed_dim=96,
    depths=(2, 2, 2, 2),
    heads=(3, 6, 12, 24),
    window=(7, 7),
)
PAPER_CONTRAST = (ContrastScale(stride=(1, 1), block=(19, 19)), ContrastScale(stride=(8, 8), block=(14, 14)))


def paper_plan(plan: Plan) -> Plan:
    """The plan with the networks, patch, scales and batch of Liu et al. (BMVC 2023), as their script trains ACDC.

    Spacing and normalisation stay the plan's: the paper resizes every slice to 224 x 224 whatever its spacing, which
    shifts the scale between scanners (D8); we cut 224 x 224 patches from slices at one spacing.

    Raises:
        DatasetError: the plan is not 2-D or slice by slice.
    """
    if plan.spatial_dims != 2:
        raise DatasetError(
            f"preset paper: expected a 2-D plan, received {plan.spatial_dims}-D; add --configuration 2d."
        )
    every = "The paper keeps every component; --postprocess RUNS applies what a cross-validation in RUNS decided."
    reason = "as in the paper (Liu et al., BMVC 2023) and its script for ACDC"
    changed = (
        "patch_size",
        "batch_labeled",
        "batch_unlabeled",
        "batch_dice",
        "cnn",
        "transformer",
        "contrast",
        "projection_dim",
    )
    return plan.replace(
        patch_size=(224, 224),
        batch_labeled=2,
        batch_unlabeled=2,
        batch_dice=True,
        cnn=PAPER_CNN,
        transformer=PAPER_TRANSFORMER,
        contrast=PAPER_CONTRAST,
        projection_dim=128,
        largest_component=(),
        why={**plan.why, **dict.fromkeys(changed, reason), "largest_component": every},
    )
