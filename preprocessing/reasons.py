"""The reasons for a plan, in words: one entry of ``Plan.why`` per field, with the numbers that led to it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mcsc_bundle.plan import Fingerprint, Plan
from mcsc_bundle.words import counted
from preprocessing.configuration import in_image_order
from preprocessing.contrast import COARSE_BLOCKS, FINE_BLOCKS, STEP_SHARE
from preprocessing.geometry import COARSE_AXIS_PERCENTILE, Geometry
from preprocessing.memory import FEATURE_CAP
from preprocessing.mirroring import why_mirrored
from preprocessing.sizing import (
    CPU_BATCH,
    CPU_MEMORY_CAP_GB,
    FULL_WIDTH,
    LOWRES_BELOW,
    MIN_BATCH,
    Sizing,
    Task,
    fit_networks,
)


@dataclass(frozen=True)
class Decisions:
    """What the planner decided on its way, for the reasons.

    Args:
        geometry, task, sizing: results of the steps.
        axes: image axes of the network in the order of ``task``.
        slice_axis: image axis sliced along, if any.
        configuration, why_configuration: nnU-Net's name of what is planned, and its reason.
        why_dims: reason for 2-D or 3-D.
        lowres_mm: spacing of 3d_lowres in the order of ``task``; ``None`` if the data do not call for it.
        default_memory: the budget was not given.
    """

    geometry: Geometry
    task: Task
    sizing: Sizing
    axes: tuple[int, ...]
    slice_axis: int | None
    configuration: str
    why_configuration: str
    why_dims: str
    lowres_mm: tuple[float, ...] | None
    default_memory: bool


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
        "spacing_mm": _spacing(plan, made.geometry),
        "median_shape": (
            f"Median over {counted(made.geometry.num_cases, 'case')} (labelled and unlabelled) after cropping to the non-zero "
            f"box and resampling to the target spacing."
        ),
        "separate_z_ratio": _separate(plan),
        "normalization": _normalization(plan, fingerprint),
        "patch_size": _patch(plan, made),
        "batch_labeled": _batch(plan, made),
        "batch_unlabeled": _split(plan, fingerprint),
        "batch_dice": _batch_dice(plan, made),
        "cnn": _cnn(plan, made),
        "transformer": _transformer(plan, made),
        "contrast": _contrast(plan),
        "projection_dim": "The paper's width of the vectors that are contrasted.",
        "mirror_axes": why_mirrored(plan),
        "inference_overlap": "Neighbouring windows share half a patch and are blended by a Gaussian, as in nnU-Net.",
        "memory_gb": _memory(plan, made),
        "estimated_memory_gb": _estimate(plan, made),
        "device": _device(plan, made),
    }


def per_axis(values: Sequence[float | None]) -> str:
    """``(1.5, 1.5, None)`` as ``1.5 x 1.5 x own``."""
    return " x ".join("own" if value is None else f"{value:.4g}" for value in values)


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


def _spacing(plan: Plan, geometry: Geometry) -> str:
    text = f"Median of the cases' spacings is {per_axis(geometry.median_spacing_mm)} mm."
    axis = geometry.coarse_axis
    if plan.configuration == "3d_lowres":
        return (
            f"{text} Coarsened from full resolution until a patch covers {LOWRES_BELOW:.0%} of the median image: axes that are "
            f"more than twice finer than the coarsest first, then all (nnU-Net's 3d_lowres)."
        )
    if geometry.spacing_mm != geometry.median_spacing_mm and axis != plan.slice_axis:
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
                f"'{entry.channel}' names CT, whose units mean the same in every scan: clipped to the foreground's "
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


def _patch(plan: Plan, made: Decisions) -> str:
    sizing, task = made.sizing, made.task
    text = (
        f"Tried first: {per_axis(_image_order(made, sizing.first_patch))}, equal in mm on every axis, clipped to the "
        f"median shape and padded to multiples of {per_axis(plan.cnn.divisor)}."
    )
    if sizing.memory_patch == sizing.first_patch:
        text += f" {MIN_BATCH} of them fit the memory budget."
    else:
        text += f" Shrunk along its relatively longest axis until {MIN_BATCH} fit {task.memory_gb:.3g} GB."
    chosen = sizing.networks.topology.patch
    if chosen != sizing.memory_patch:
        text += (
            f" Memory would allow {per_axis(_image_order(made, sizing.memory_patch))}; shrunk further, because even "
            f"the narrowest networks need more than {task.step_seconds:g} s per step for it on 2 CPU cores."
        )
    return text + _pair_cost(made)


def _pair_cost(made: Decisions) -> str:
    """What the second network costs in patch and batch, against the CNN alone on the same device and budget."""
    task, sizing = made.task, made.sizing
    if not task.pair:
        return ""
    alone = fit_networks(Task(**{**vars(task), "pair": False}))
    networks = sizing.networks
    text = f" The Transformer takes {networks.transformer_count / networks.count:.0%} of the pair's feature maps; "
    with_both = networks.topology.patch, sizing.batch, networks.cnn.features[0]
    without = alone.networks.topology.patch, alone.batch, alone.networks.cnn.features[0]
    if with_both == without:
        return text + "the CNN alone would get the same patch, batch and width."
    patch = per_axis(_image_order(made, without[0]))
    return text + f"the CNN alone would get patch {patch}, batch {without[1]} and {without[2]} channels at full size."


def _patches(count: int) -> str:
    return f"which is {count} patches" if count > 1 else "less than two patches hold"


def _batch(plan: Plan, made: Decisions) -> str:
    sizing, batch = made.sizing, plan.batch_labeled + plan.batch_unlabeled
    text = (
        f"{batch} patches in a step. Memory allows {sizing.memory_batch}; a step is to show at most "
        f"{made.task.family.dataset_share:.0%} of the data set's voxels, {_patches(sizing.dataset_batch)}; never fewer than "
        f"{MIN_BATCH}."
    )
    if plan.device == "cpu" and batch < min(sizing.memory_batch, max(sizing.dataset_batch, MIN_BATCH)):
        most, seconds = CPU_BATCH[plan.spatial_dims], made.task.step_seconds
        text += f" On a CPU at most {most}, halved until the step takes {seconds:g} s."
    return text


def _split(plan: Plan, fingerprint: Fingerprint) -> str:
    if not fingerprint.unlabeled:
        return "There is no unlabelled case."
    return "Half of the batch is unlabelled, as in the paper (2 + 2): each step learns from both."


def _batch_dice(plan: Plan, made: Decisions) -> str:
    if plan.spatial_dims == 2:
        return "Many slices hold no foreground, so Dice is summed over the batch (nnU-Net's 2-D rule)."
    if made.lowres_mm is not None and plan.configuration == "3d_fullres":
        return (
            f"The patch covers less than {LOWRES_BELOW:.0%} of the median image, so it often holds no foreground: "
            f"Dice is summed over the batch. (3d_lowres would see the image at "
            f"{per_axis(_image_order(made, made.lowres_mm))} mm.)"
        )
    return f"The patch covers at least {LOWRES_BELOW:.0%} of the median image: Dice is taken per sample."


def _cnn(plan: Plan, made: Decisions) -> str:
    cnn, width = plan.cnn, plan.cnn.features[0]
    cap = FEATURE_CAP[plan.spatial_dims] * width // FULL_WIDTH
    text = (
        f"{len(cnn.features)} stages: each halves the axes that have at least 8 voxels and less than twice the "
        f"finest spacing. Axes are convolved over once their spacing is that near to the finest. {width} channels, "
        f"doubled per stage up to {cap}."
    )
    if cnn.blocks_per_stage:
        blocks = ", ".join(map(str, cnn.blocks_per_stage))
        text += f" A residual encoder of {blocks} blocks and a decoder of one convolution a stage (nnU-Net Revisited, 2024)."
    if width < FULL_WIDTH:
        seconds = made.task.step_seconds
        text += f" Narrower than nnU-Net's {FULL_WIDTH}, to keep a step on 2 CPU cores under {seconds:g} s."
    return text


def _transformer(plan: Plan, made: Decisions) -> str:
    swin = plan.transformer
    grid = [math.ceil(length / edge) for length, edge in zip(plan.patch_size, swin.patch, strict=True)]
    text = (
        f"Tokens of {per_axis(swin.patch)} voxels, about as long in mm on every axis, give a grid of {per_axis(grid)}; "
        f"{len(swin.depths)} stages merge it while at least 4 tokens are left on an axis. Windows of "
        f"{per_axis(swin.window)} tokens pad the grids least. {swin.embed_dim} channels at first, "
        f"{swin.embed_dim // swin.heads[0]} per head."
    )
    return text if made.task.pair else text + " Not counted in the memory budget: planned for the CNN alone."


def _contrast(plan: Plan) -> str:
    scales = "; ".join(
        f"stride {per_axis(scale.stride)} in blocks of {per_axis(scale.block)}, {scale.pixels or 'all'} pixels per "
        f"image"
        for scale in plan.contrast
    )
    text = (
        f"{scales}. The paper contrasts 224 and 28 of 224 pixels in blocks of 1/{FINE_BLOCKS} and 1/{COARSE_BLOCKS} "
        f"of the map; the coarse stride is where both decoders have a map. So many pixels that the loss takes about "
        f"{STEP_SHARE:.0%} of the step's operations."
    )
    return text if len(plan.contrast) > 1 else text + " The CNN has one stage, so there is one scale."


def _memory(plan: Plan, made: Decisions) -> str:
    if not made.default_memory:
        return "Given."
    if plan.device == "cuda" and plan.cnn.preset == "resenc":
        return f"nnU-Net plans this family of networks for {made.task.family.memory_gb:g} GB; --memory_gb plans for more or less."
    if plan.device == "cuda":
        return "What the GPU has."
    return f"Half of the free memory, at most {CPU_MEMORY_CAP_GB:g} GB, nnU-Net's budget."


def _estimate(plan: Plan, made: Decisions) -> str:
    networks = made.sizing.networks
    return (
        f"{networks.cnn_count / 1e6:.0f} million feature-map voxels per patch in the CNN and "
        f"{networks.transformer_count / 1e6:.0f} in the Transformer, times the batch, and "
        f"{networks.parameters / 1e6:.1f} million weights with gradients and optimiser state."
    )


def _device(plan: Plan, made: Decisions) -> str:
    if plan.device == "cuda":
        return "Planned for a GPU."
    seconds = made.sizing.networks.step_seconds(made.sizing.batch)
    limit = made.task.step_seconds
    return (
        f"Planned for a CPU: a step of the networks is estimated at {seconds:.1f} s on 2 cores, of {limit:g} s allowed."
    )


def _image_order(made: Decisions, values: Sequence[float]) -> tuple[float, ...]:
    return in_image_order(made.axes, values)
