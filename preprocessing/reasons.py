"""The reasons for a plan, in words: one entry of ``Plan.why`` per field, with the numbers that led to it."""

from __future__ import annotations

import math
import re

from mcsc_bundle.plan import Fingerprint, Plan
from mcsc_bundle.words import counted, per_axis
from preprocessing.decisions import Decisions
from preprocessing.geometry import COARSE_AXIS_PERCENTILE
from preprocessing.mirroring import why_mirrored
from preprocessing.reasons_of_size import reasons_of_size
from preprocessing.sizing import (
    LOWRES_BELOW,
)

SHARES = {2: "quarter", 4: "sixteenth"}

REGIONS = (
    "Declared as lists of label values. Each has a channel with a sigmoid, so that they may lie in one another; masks are "
    "painted region by region in the order of 'labels', as with nnU-Net's regions_class_order."
)


def reasons(plan: Plan, fingerprint: Fingerprint, made: Decisions) -> dict[str, str]:
    """Reason of each choice by field name."""
    return {
        "configuration": made.why_configuration,
        **({} if not plan.regions else {"regions": REGIONS}),
        **({} if plan.ignore_value is None else {"ignore_value": _ignore(fingerprint)}),
        "spatial_dims": made.why_dims,
        "slice_axis": _slice_axis(plan),
        "orientation": _orientation(plan),
        "spacing_mm": _spacing(plan, made),
        "median_shape": (
            f"Median over {counted(made.geometry.num_cases, 'case')} (labelled and unlabelled) after cropping to the non-zero "
            f"box and resampling to the target spacing."
        ),
        "separate_z_ratio": _separate(plan),
        "normalization": _normalization(plan, fingerprint),
        "batch_unlabeled": _split(plan, fingerprint),
        "projection_dim": "The paper's width of the vectors that are contrasted.",
        "mirror_axes": why_mirrored(plan),
        "inference_overlap": "Neighbouring windows share half a patch and are blended by a Gaussian, as in nnU-Net.",
        **reasons_of_size(plan, made),
    }


def _ignore(fingerprint: Fingerprint) -> str:
    cases = [case for case in fingerprint.labeled if case.ignored_voxels]
    voxels = sum(math.prod(case.shape) for case in fingerprint.labeled)
    share = sum(case.ignored_voxels for case in cases) / max(1, voxels)
    return (
        f"Declared as the ignore label; {len(cases)} of {len(fingerprint.labeled)} labelled cases have it, on {share:.0%} "
        f"of their voxels. These teach nothing and are not scored, and labelled patches are drawn on the others."
    )


def _separate(plan: Plan) -> str:
    if plan.slice_axis is not None or plan.image_dims == 2:
        return "Of no effect: nothing is resampled across slices."
    return (
        f"Images more than {plan.separate_z_ratio:g} times coarser on one axis are resampled in-plane first and "
        f"along that axis by nearest neighbour, as in nnU-Net: splines across thick slices ring."
    )


def _slice_axis(plan: Plan) -> str:
    if plan.slice_axis is None:
        return "The networks see all axes of the image."
    return (
        f"Axis {plan.slice_axis} has the thickest slices (or a single one); each case keeps its own slices, as "
        f"nnU-Net's 2-D configuration does: nothing is interpolated between slices."
    )


def _orientation(plan: Plan) -> str:
    if plan.image_dims == 2:
        return "2-D images keep their axes."
    if plan.orientation is None:
        return (
            "The scans are cut obliquely, nearest to another anatomical axis in one case than in the next: turned to RAS, "
            "their thick slices would not lie along one axis. Every volume keeps its file's axes, as in nnU-Net."
        )
    if plan.orientation == "SAR":
        return "The fingerprint gives axes as its file stores them (z, y, x); SAR brings images to that order."
    return "Every volume is turned to the same anatomical axes, whatever its file stores; masks are turned back."


def _spacing(plan: Plan, made: Decisions) -> str:
    geometry, coarser = made.geometry, made.coarser
    text = f"Median of the cases' spacings is {per_axis(geometry.median_spacing_mm)} mm."
    axis = geometry.coarse_axis
    if plan.configuration == "3d_lowres":
        return (
            f"{text} Coarsened from full resolution until a patch covers {LOWRES_BELOW:.0%} of the median image: axes that are "
            f"more than twice finer than the coarsest first, then all (nnU-Net's 3d_lowres)."
        )
    if coarser is not None:
        seconds, limit = f"{coarser.full_seconds:.2g} s", f"{made.task.step_seconds:g} s"
        name, dice = coarser.loses_most
        text += (
            f" On a CPU, {coarser.factor} times that in the plane: at full resolution a step of networks and batch that nothing "
            f"narrows would take {seconds}, more than the {limit} that it may; here it takes a {SHARES[coarser.factor]}. The "
            f"labels lose little: made so coarse and brought back, '{name}', which loses most, has a Dice of {dice:.3f} with "
            f"itself in the usual case. --step_seconds {math.ceil(coarser.full_seconds)}, given to the training as well, plans "
            "at full resolution."
        )
    elif geometry.spacing_mm != geometry.median_spacing_mm and axis != plan.slice_axis:
        text += (
            f" Axis {axis} is more than three times coarser and shorter than the others, so it takes the "
            f"{COARSE_AXIS_PERCENTILE}th percentile of the cases, {geometry.spacing_mm[axis]:.4g} mm: resampling "
            f"thin slices to thick ones loses more than the reverse."
        )
    if plan.slice_axis is not None:
        text += f" Along axis {plan.slice_axis} each case keeps its own spacing."
    return text


def _normalization(plan: Plan, fingerprint: Fingerprint) -> str:
    texts = []
    for entry in plan.normalization:
        if entry.scheme == "ct":
            texts.append(
                f"'{entry.channel}' is CT, whose units mean the same in every scan: clipped to the foreground's "
                f"0.5 and 99.5 percentiles, {entry.lower:.4g} to {entry.upper:.4g}, then minus its mean "
                f"{entry.mean:.4g}, over its deviation {entry.std:.4g}."
            )
        elif entry.scheme == "zscore":
            kept = (
                "inside the non-zero voxels, since cropping to them keeps less than 3/4 of the image"
                if entry.inside_mask
                else "per image"
            )
            uptake = re.search(r"(?<![a-z])(pet|suv|fdg)(?![a-z])", entry.channel.lower())
            cause = "uptake depends on dose, weight and time" if uptake else "units differ from scan to scan"
            texts.append(f"'{entry.channel}': {cause}, so mean 0 and deviation 1 {kept}.")
        else:
            texts.append(f"'{entry.channel}' names its normalisation: {entry.scheme}.")
    return " ".join(texts)


def _split(plan: Plan, fingerprint: Fingerprint) -> str:
    if not fingerprint.unlabeled:
        return "There is no unlabelled case."
    return "Half of the batch is unlabelled, as in the paper (2 + 2): each step learns from both."
