"""The reasons for what has to fit a machine: patch, batch, both networks, contrast, memory."""

from __future__ import annotations

import math

from mcsc_bundle.plan import Plan
from mcsc_bundle.plan_parts import BLOCK_PIXELS
from mcsc_bundle.words import per_axis
from preprocessing.contrast import COARSE_BLOCKS, FINE_BLOCKS, STEP_SHARE
from preprocessing.decisions import Decisions
from preprocessing.memory import FEATURE_CAP
from preprocessing.sizing import (
    CPU_BATCH,
    CPU_MEMORY_CAP_GB,
    CPU_WIDTHS,
    FULL_WIDTH,
    LABELED_PATCHES,
    LABELED_SHARE,
    LOWRES_BELOW,
    MIN_BATCH,
    Task,
    fit_networks,
)


def reasons_of_size(plan: Plan, made: Decisions) -> dict[str, str]:
    """Reason of each of these choices by field name."""
    return {
        "patch_size": _patch(plan, made),
        "batch_labeled": _batch(plan, made),
        "batch_dice": _batch_dice(plan, made),
        "cnn": _cnn(plan, made),
        "transformer": _transformer(plan, made),
        "contrast": _contrast(plan),
        "memory_gb": _memory(plan, made),
        "estimated_memory_gb": _estimate(plan, made),
        "device": _device(plan, made),
    }


def _patch(plan: Plan, made: Decisions) -> str:
    sizing, task = made.sizing, made.task
    text = (
        f"Tried first: {per_axis(made.in_image_order(sizing.first_patch))}, equal in mm on every axis, clipped to the "
        f"median shape and padded to multiples of {per_axis(plan.cnn.divisor)}."
    )
    if sizing.memory_patch == sizing.first_patch:
        text += f" {MIN_BATCH} of them fit the memory budget."
    else:
        text += f" Shrunk along its relatively longest axis until {MIN_BATCH} fit {task.memory_gb:.3g} GB."
    chosen = sizing.networks.topology.patch
    if chosen != sizing.memory_patch:
        text += (
            f" Memory would allow {per_axis(made.in_image_order(sizing.memory_patch))}; shrunk further, because even "
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
    patch = per_axis(made.in_image_order(without[0]))
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
    if batch == sizing.labeled_batch:
        text += (
            f" Half of them are labelled, at most {LABELED_SHARE:.0%} of the labelled voxels or {LABELED_PATCHES} patches, "
            f"whichever is more: beyond, a step shows the same few scans again."
        )
    if plan.device == "cpu" and batch < min(sizing.memory_batch, max(sizing.dataset_batch, MIN_BATCH)):
        most, seconds = CPU_BATCH[plan.spatial_dims], made.task.step_seconds
        text += f" On a CPU at most {most}, halved until the step takes {seconds:g} s."
    return text


def _batch_dice(plan: Plan, made: Decisions) -> str:
    if plan.spatial_dims == 2:
        return "Many slices hold no foreground, so Dice is summed over the batch (nnU-Net's 2-D rule)."
    if made.lowres_mm is not None and plan.configuration == "3d_fullres":
        return (
            f"The patch covers less than {LOWRES_BELOW:.0%} of the median image, so it often holds no foreground: "
            f"Dice is summed over the batch. (3d_lowres would see the image at "
            f"{per_axis(made.in_image_order(made.lowres_mm))} mm.)"
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
        text += f" Narrower than nnU-Net's {FULL_WIDTH}: at most {CPU_WIDTHS[0]}, and a step on 2 CPU cores under {seconds:g} s."
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
        f"{STEP_SHARE:.0%} of the step's operations, but no more than {BLOCK_PIXELS} of a block."
    )
    return text if len(plan.contrast) > 1 else text + " The CNN has one stage, so there is one scale."


def _memory(plan: Plan, made: Decisions) -> str:
    if not made.default_memory:
        return "Given."
    if plan.device == "cuda" and plan.cnn.preset == "resenc":
        return f"nnU-Net plans this family of networks for {made.task.family.memory_gb:g} GB; --memory_gb plans for more or less."
    if plan.device == "cuda":
        return "Nine tenths of what the GPU has; cuDNN's search, other contexts and fragmentation need some of it, too."
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
