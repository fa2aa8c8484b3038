"""Tiny plans for tests: one per kind of data set, each entry changeable by name."""

from __future__ import annotations

from typing import Any

from mcsc_bundle.plan import ChannelNormalization, CNNPlan, ContrastScale, Plan, TransformerPlan

KINDS = ("2d", "slicewise", "3d", "anisotropic")


def make_plan(kind: str = "3d", **changes: Any) -> Plan:
    """A plan small enough to train in a test.

    Args:
        kind: ``2d`` (2-D images, patch 16 x 24), ``slicewise`` (volumes walked along axis 2 by 2-D networks, patch
            16 x 24), ``3d`` (isotropic, patch 8 x 16 x 16) or ``anisotropic`` (patch 4 x 16 x 16, coarse first axis).
        changes: fields of ``Plan`` to replace, e.g. ``labels={"background": 0, "lesion": 255}``. The normalisation
            follows ``channel_names`` unless it is given too.
    """
    channels = changes.get("channel_names", ("MRI",))
    entries: dict[str, Any] = {
        "dataset_name": "Tiny",
        "channel_names": channels,
        "labels": {"background": 0, "left": 1, "right": 2},
        "normalization": tuple(ChannelNormalization(channel=name, scheme="zscore") for name in channels),
        "batch_labeled": 1,
        "batch_unlabeled": 1,
        "batch_dice": True,
        "projection_dim": 8,
    }
    entries.update(_flat(kind) if kind in ("2d", "slicewise") else _volumetric(kind))
    return Plan(**{**entries, **changes})


def _flat(kind: str) -> dict[str, Any]:
    volumes = kind == "slicewise"
    return {
        "image_dims": 3 if volumes else 2,
        "spatial_dims": 2,
        "slice_axis": 2 if volumes else None,
        "orientation": "RAS" if volumes else None,
        "spacing_mm": (1.0, 1.0, None) if volumes else (1.0, 1.0),
        "median_shape": (16, 24, 6) if volumes else (16, 24),
        "patch_size": (16, 24),
        "cnn": CNNPlan("plan", (4, 6, 8), ((3, 3),) * 3, ((1, 1), (2, 2), (2, 2)), convs_per_stage=1),
        "transformer": TransformerPlan("plan", (2, 2), ((1, 1), (2, 2)), 8, (2, 2), (2, 4), (4, 4), True),
        "contrast": (ContrastScale((1, 1), (4, 4), pixels=64), ContrastScale((4, 4), (2, 2))),
        "mirror_axes": (0, 1),
    }


def _volumetric(kind: str) -> dict[str, Any]:
    if kind not in KINDS:
        raise ValueError(f"expected kind to be one of {KINDS}, received {kind!r}.")
    coarse = kind == "anisotropic"  # the first axis has fewer voxels: flat first kernel, halved and merged once less
    return {
        "image_dims": 3,
        "spatial_dims": 3,
        "slice_axis": None,
        "orientation": "RAS",
        "spacing_mm": (5.0, 1.0, 1.0) if coarse else (1.0, 1.0, 1.0),
        "median_shape": (5, 20, 18) if coarse else (10, 20, 18),
        "patch_size": (4, 16, 16) if coarse else (8, 16, 16),
        "cnn": CNNPlan(
            "plan",
            (4, 6, 8),
            ((1 if coarse else 3, 3, 3), (3, 3, 3), (3, 3, 3)),
            ((1, 1, 1), (1 if coarse else 2, 2, 2), (2, 2, 2)),
            convs_per_stage=1,
        ),
        "transformer": TransformerPlan(
            "plan",
            (1 if coarse else 2, 2, 2),
            ((1, 1, 1), (1 if coarse else 2, 2, 2)),
            8,
            (2, 2),
            (2, 4),
            (2, 4, 4),
            True,
        ),
        "contrast": (
            ContrastScale((1, 1, 1), (2, 4, 4), pixels=64),
            ContrastScale((2 if coarse else 4, 4, 4), (1, 2, 2)),
        ),
        "mirror_axes": (0, 1, 2),
    }
