"""What makes a plan possible: each rule names the entry, the value received and what would be possible."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from mcsc_bundle.labels import MAX_CLASSES, paints_apart
from mcsc_bundle.plan_files import PlanError
from mcsc_bundle.plan_parts import CASCADE, CONFIGURATIONS, LOWRES

if TYPE_CHECKING:
    from mcsc_bundle.plan import Plan

PLAN_FORMAT = 1
NORMALIZATION_SCHEMES = ("zscore", "ct", "rescale_to_0_1", "rgb_to_0_1", "none")
DEVICES = ("cpu", "cuda")
AXIS_CODES = ("LR", "AP", "IS")
PAPER_STAGES = 5
CNN_PRESETS = ("plan", "resenc", "paper")


def check_plan(plan: Plan) -> None:
    """Refuse a plan that cannot be carried out.

    Raises:
        PlanError: with the entry, the value received, and what would be possible.
    """
    _check_format(plan)
    _check_labels(plan)
    _check_axes(plan)
    _check_cnn(plan)
    _check_transformer(plan)
    _check_batch_and_contrast(plan)
    _check_budget(plan)


def _expect(condition: bool, entry: str, expected: str, received: Any, remedy: str = "") -> None:
    if not condition:
        raise PlanError(
            f"plan entry '{entry}': expected {expected}, received {received!r}." + (f" {remedy}" if remedy else "")
        )


def _check_format(plan: Plan) -> None:
    _expect(plan.format == PLAN_FORMAT, "format", str(PLAN_FORMAT), plan.format, "Plan the data set again.")


def _check_labels(plan: Plan) -> None:
    values = tuple(plan.labels.values())
    _expect(len(values) >= 2, "labels", "background and at least one class", plan.labels)
    _expect(values[0] == 0, "labels", "background = 0 as the first entry", plan.labels)
    _expect(len(set(values)) == len(values), "labels", "distinct values", plan.labels)
    _expect(len(values) <= MAX_CLASSES, "labels", f"at most {MAX_CLASSES} entries", len(values))
    if plan.regions:
        names = list(plan.labels)[1:]
        _expect(list(plan.regions) == names, "regions", f"values for each of {names}, in this order", plan.regions)
        own, order = list(plan.regions.values()), [plan.labels[name] for name in names]
        _expect(
            all(isinstance(value, int) and value > 0 for of in own for value in of), "regions", "values above 0", own
        )
        fits = paints_apart(order, own)
        _expect(fits, "regions", f"values that hold those of 'labels', {order}, each in none of the later ones", own)
    if plan.ignore_value is not None:
        _expect(
            isinstance(plan.ignore_value, int) and plan.ignore_value > max(plan.label_values),
            "ignore_value",
            f"null or an integer above the highest label, {max(plan.label_values)}",
            plan.ignore_value,
        )
    names = list(plan.labels)[1:]
    unknown = [name for group in plan.largest_component for name in group if name not in names]
    _expect(
        all(plan.largest_component) and not unknown,
        "largest_component",
        f"lists of classes out of {', '.join(names)}, such as {json.dumps([names[:1]])}",
        unknown or plan.largest_component,
        "[] keeps all components.",
    )
    _expect(len(plan.channel_names) >= 1, "channel_names", "at least one channel", plan.channel_names)
    _expect(
        len(plan.normalization) == len(plan.channel_names),
        "normalization",
        f"{len(plan.channel_names)} entries, one per channel",
        len(plan.normalization),
    )
    for index, entry in enumerate(plan.normalization):
        name = f"normalization[{index}]"
        schemes = f"a scheme of {NORMALIZATION_SCHEMES}"
        _expect(entry.scheme in NORMALIZATION_SCHEMES, f"{name}.scheme", schemes, entry.scheme)
        if entry.scheme == "ct":
            limits = tuple(math.nan if x is None else x for x in (entry.lower, entry.upper, entry.mean, entry.std))
            known = all(map(math.isfinite, limits)) and limits[0] <= limits[1] and limits[3] > 0
            _expect(known, name, "lower, upper, mean and std for scheme 'ct', with lower <= upper and std > 0", entry)


def _check_axes(plan: Plan) -> None:
    _expect(plan.image_dims in (2, 3), "image_dims", "2 or 3", plan.image_dims)
    _check_orientation(plan)
    possible = (2, 3) if plan.image_dims == 3 else (2,)
    _expect(plan.spatial_dims in possible, "spatial_dims", " or ".join(map(str, possible)), plan.spatial_dims)
    if plan.spatial_dims < plan.image_dims:
        _expect(plan.slice_axis in (0, 1, 2), "slice_axis", "0, 1 or 2 in a slice-wise plan", plan.slice_axis)
    else:
        _expect(plan.slice_axis is None, "slice_axis", "null unless a 2-D plan slices 3-D volumes", plan.slice_axis)
    _expect(len(plan.spacing_mm) == plan.image_dims, "spacing_mm", f"{plan.image_dims} entries", plan.spacing_mm)
    for axis, spacing in enumerate(plan.spacing_mm):
        keeps = spacing is None and axis == plan.slice_axis
        _expect(
            keeps or (spacing is not None and 0 < spacing < math.inf),
            "spacing_mm",
            f"a positive number of mm on axis {axis}",
            plan.spacing_mm,
            "null is possible on slice_axis only.",
        )
    _expect(
        len(plan.median_shape) == plan.image_dims and min(plan.median_shape) >= 0,
        "median_shape",
        f"{plan.image_dims} numbers of voxels",
        plan.median_shape,
    )
    _expect(plan.separate_z_ratio > 0, "separate_z_ratio", "a ratio above 0", plan.separate_z_ratio)
    _expect(len(plan.patch_size) == plan.spatial_dims, "patch_size", f"{plan.spatial_dims} entries", plan.patch_size)
    axes = plan.mirror_axes
    _expect(
        all(0 <= axis < plan.spatial_dims for axis in axes) and len(set(axes)) == len(axes),
        "mirror_axes",
        f"distinct axes below {plan.spatial_dims}, from 0",
        axes,
        "An empty list mirrors nothing.",
    )
    _expect(0 <= plan.inference_overlap < 1, "inference_overlap", "a fraction in [0, 1)", plan.inference_overlap)


def _check_orientation(plan: Plan) -> None:
    if plan.image_dims == 2:
        _expect(plan.orientation is None, "orientation", "null for 2-D images", plan.orientation)
    elif plan.orientation is not None:
        pairs = sorted(next((pair for pair in AXIS_CODES if code in pair), "") for code in plan.orientation)
        expected = "a letter of each pair L/R, A/P and I/S, such as 'RAS', or null to keep the axes of the files"
        _expect(pairs == sorted(AXIS_CODES), "orientation", expected, plan.orientation)


def _check_cnn(plan: Plan) -> None:
    cnn, dims = plan.cnn, plan.spatial_dims
    _expect(cnn.preset in CNN_PRESETS, "cnn.preset", f"one of {', '.join(CNN_PRESETS)}", cnn.preset)
    stages = len(cnn.features)
    _expect(stages > 0 and min(cnn.features) > 0, "cnn.features", "channels above 0 for each stage", cnn.features)
    _expect(cnn.convs_per_stage > 0, "cnn.convs_per_stage", "at least 1", cnn.convs_per_stage)
    blocks = cnn.blocks_per_stage
    if cnn.preset == "resenc":
        fits = len(blocks) == stages and min(blocks) > 0
        _expect(fits, "cnn.blocks_per_stage", f"1 or more for each of {stages} stages", blocks)
    else:
        _expect(not blocks, "cnn.blocks_per_stage", f"none with preset {cnn.preset!r}", blocks)
    for name in ("kernel_sizes", "strides"):
        value = getattr(cnn, name)
        _expect(len(value) == stages, f"cnn.{name}", f"{stages} stages, as in cnn.features", value)
        _expect(all(len(axes) == dims for axes in value), f"cnn.{name}", f"{dims} axes in each stage", value)
    odd = all(size > 0 and size % 2 for axes in cnn.kernel_sizes for size in axes)
    _expect(odd, "cnn.kernel_sizes", "odd sizes such as 1 and 3", cnn.kernel_sizes)
    _expect(all(min(axes) > 0 for axes in cnn.strides), "cnn.strides", "strides of 1 or more", cnn.strides)
    _expect(all(stride == 1 for stride in cnn.strides[0]), "cnn.strides", "ones in the first stage", cnn.strides[0])
    for axis, (size, divisor) in enumerate(zip(plan.patch_size, cnn.divisor, strict=True)):
        low, high = size // divisor * divisor, math.ceil(size / divisor) * divisor
        options = " or ".join(str(option) for option in sorted({low, high}) if option > 0)
        _expect(
            size > 0 and size % divisor == 0,
            "patch_size",
            f"a multiple of {divisor} on network axis {axis} (the CNN halves it)",
            size,
            f"Possible: {options}.",
        )
    voxels = math.prod(size // divisor for size, divisor in zip(plan.patch_size, cnn.divisor, strict=True))
    _expect(
        voxels > 1,
        "patch_size",
        f"more than one voxel left at the bottleneck, i.e. more than {cnn.divisor}",
        plan.patch_size,
        "Enlarge the patch, or take a stage away.",
    )
    if cnn.preset == "paper":
        fixed = dims == 2 and stages == PAPER_STAGES and cnn.convs_per_stage == 2
        fixed = fixed and all(size == 3 for axes in cnn.kernel_sizes for size in axes)
        fixed = fixed and all(stride == 2 for axes in cnn.strides[1:] for stride in axes)
        _expect(
            fixed,
            "cnn.preset",
            f"'plan', or for 'paper' two dimensions, {PAPER_STAGES} stages, kernels 3, strides 2 and 2 convolutions",
            "paper",
        )


def _check_transformer(plan: Plan) -> None:
    swin, dims = plan.transformer, plan.spatial_dims
    _expect(swin.preset in ("plan", "paper"), "transformer.preset", "'plan' or 'paper'", swin.preset)
    for name in ("patch", "window"):
        value = getattr(swin, name)
        _expect(len(value) == dims and min(value) > 0, f"transformer.{name}", f"{dims} positive entries", value)
    stages = len(swin.depths)
    _expect(stages > 0 and min(swin.depths) > 0, "transformer.depths", "blocks above 0 for each stage", swin.depths)
    _expect(swin.embed_dim > 0, "transformer.embed_dim", "channels above 0", swin.embed_dim)
    for name in ("heads", "merges"):
        _expect(
            len(getattr(swin, name)) == stages,
            f"transformer.{name}",
            f"{stages} stages, as in depths",
            getattr(swin, name),
        )
    _expect(
        all(len(merge) == dims and min(merge) > 0 for merge in swin.merges),
        "transformer.merges",
        f"{dims} axes in each stage, each 1 or more",
        swin.merges,
    )
    _expect(
        all(merge == 1 for merge in swin.merges[0]), "transformer.merges", "ones in the first stage", swin.merges[0]
    )
    for stage, heads in enumerate(swin.heads):
        width = swin.embed_dim * 2**stage
        possible = [n for n in range(1, width + 1) if width % n == 0][:8]
        _expect(
            heads > 0 and width % heads == 0,
            "transformer.heads",
            f"a divisor of {width} in stage {stage}",
            heads,
            f"Possible: {possible}.",
        )


def _check_batch_and_contrast(plan: Plan) -> None:
    _expect(plan.batch_labeled >= 1, "batch_labeled", "at least 1", plan.batch_labeled)
    _expect(plan.batch_unlabeled >= 0, "batch_unlabeled", "0 or more", plan.batch_unlabeled)
    _expect(plan.projection_dim > 0, "projection_dim", "at least 1", plan.projection_dim)
    for index, scale in enumerate(plan.contrast):
        for name in ("stride", "block"):
            value = getattr(scale, name)
            _expect(
                len(value) == plan.spatial_dims and min(value) >= 1,
                f"contrast[{index}].{name}",
                f"{plan.spatial_dims} positive entries",
                value,
            )
        _expect(
            scale.pixels is None or scale.pixels > 0,
            f"contrast[{index}].pixels",
            "at least 1, or null for all",
            scale.pixels,
        )
        cells = tuple(math.ceil(size / stride) for size, stride in zip(plan.patch_size, scale.stride, strict=True))
        fits = all(block <= cell for block, cell in zip(scale.block, cells, strict=True))
        _expect(fits, f"contrast[{index}].block", f"at most the feature map {cells}", scale.block)


def _check_budget(plan: Plan) -> None:
    _expect(plan.device in DEVICES, "device", f"one of {DEVICES}", plan.device)
    _expect(plan.memory_gb > 0, "memory_gb", "gigabytes above 0", plan.memory_gb)
    _expect(plan.estimated_memory_gb >= 0, "estimated_memory_gb", "gigabytes, 0 or more", plan.estimated_memory_gb)
    measured = plan.measured_memory_gb
    _expect(measured is None or measured >= 0, "measured_memory_gb", "gigabytes, or null", measured)
    names = (*CONFIGURATIONS, CASCADE, "")
    expected = f"one of {names}, which only names the plan"
    _expect(plan.configuration in names, "configuration", expected, plan.configuration)
    stages = ("", LOWRES)
    _expect(plan.previous_stage in stages, "previous_stage", f"one of {stages}", plan.previous_stage)
