"""Coming from nnU-Net: a configuration of its ``nnUNetPlans.json`` as our plan.

The CNN, patch, batch, spacing and normalisation are taken as they stand; what nnU-Net does not plan, the Transformer and
the contrast, is planned around them. Source: nnU-Net v2 ``default_experiment_planner.py`` (``plan_experiment``) and
``plans_handler.py`` (``inherits_from``, and the entries of plans before version 2.5).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from mcsc_bundle.plan import ChannelNormalization, CNNPlan, Plan, PlanError
from mcsc_bundle.plan_parts import CONFIGURATIONS
from preprocessing.compute import FORWARD_AND_BACKWARD, cnn_flops
from preprocessing.contrast import plan_contrast
from preprocessing.memory import cnn_count, cnn_parameters
from preprocessing.mirroring import plan_mirroring, sided_labels, why_mirrored
from preprocessing.nnunet import FILE_AXES, FLAT_SPACING_RATIO
from preprocessing.nnunet_files import read_declared, read_object
from preprocessing.planner import split_batch
from preprocessing.sizing import Networks, Task, build_networks, memory_of_step
from preprocessing.topology import Topology

SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
"""nnU-Net's normalisation classes by our names."""

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"


def import_nnunet_plans(
    plans_file: str | os.PathLike,
    dataset_json: str | os.PathLike,
    configuration: str = "auto",
    networks: str = "pair",
    memory_gb: float = 8.0,
    unlabeled: bool = False,
) -> Plan:
    """A configuration of nnU-Net's plans as a plan.

    Axes stay in the order of nnU-Net's plans, see ``plan_from_nnunet``.

    Args:
        plans_file: ``nnUNetPlans.json``.
        dataset_json: nnU-Net's ``dataset.json``: labels, channels, name.
        configuration: ``3d_fullres``, ``3d_lowres``, ``2d`` or another one of the file; ``auto`` takes ``3d_fullres``,
            and ``2d`` where there is none.
        networks: ``pair`` counts the Transformer in the expected memory, ``cnn`` does not; the patch stays nnU-Net's.
        memory_gb: the budget to note in the plan; nnU-Net's plans do not hold theirs.
        unlabeled: give half of the batch to unlabelled cases.

    Raises:
        PlanError: a file is missing or is not nnU-Net's, there is no such configuration, or it holds a network or a
            normalisation that our plans cannot express.
    """
    if networks not in ("pair", "cnn"):
        raise PlanError(f"expected networks to be 'pair' or 'cnn', received {networks!r}.")
    plans, content = read_object(plans_file), read_object(dataset_json)
    declared = read_declared(content, dataset_json)
    channels, labels = declared.channel_names, declared.labels
    name, chosen = _configuration(plans, configuration, plans_file)
    try:
        cnn, spacing = _cnn(chosen, plans_file), tuple(float(value) for value in chosen["spacing"])
        patch, batch = tuple(int(value) for value in chosen["patch_size"]), int(chosen["batch_size"])
        image_dims, whole, axes = _image(plans, chosen)
        normalization = _normalization(plans, chosen, channels, plans_file)
    except (KeyError, TypeError, IndexError) as error:
        raise PlanError(
            f"{plans_file}: expected the entries of an nnU-Net v2 plan in configuration {name}, missing or malformed: "
            f"{error}. Let nnU-Net plan again (nnUNetv2_plan_experiment)."
        ) from None
    sliced = image_dims > len(spacing)
    median = tuple(round(float(value)) for value in chosen["median_image_size_in_voxels"])
    classes = len(labels) + (declared.ignore_value is not None)  # what nnU-Net counts
    task = Task(spacing, median, 0.0, len(channels), classes, memory_gb, "cuda", networks == "pair")
    nets = _networks(task, Topology(patch, cnn.strides, cnn.kernel_sizes), cnn)
    flops = FORWARD_AND_BACKWARD * batch * (nets.cnn_flops + nets.transformer_flops)
    labeled, rest = split_batch(batch, unlabeled)
    plan = Plan(
        dataset_name=str(content.get("name") or plans.get("dataset_name")),
        channel_names=channels,
        labels=labels,
        ignore_value=declared.ignore_value,
        regions=declared.regions,
        image_dims=image_dims,
        spatial_dims=len(spacing),
        slice_axis=0 if sliced else None,
        orientation=axes,
        spacing_mm=(None, *spacing) if sliced else spacing,
        median_shape=(whole, *median) if sliced else median,
        normalization=normalization,
        patch_size=patch,
        batch_labeled=labeled,
        batch_unlabeled=rest,
        batch_dice=bool(chosen.get("batch_dice", True)),
        cnn=cnn,
        transformer=nets.transformer,
        contrast=plan_contrast(patch, cnn, nets.transformer, batch, flops),
        memory_gb=memory_gb,
        estimated_memory_gb=round(memory_of_step(nets, batch, "cuda"), 2),
        device="cuda",
        configuration=name if name in CONFIGURATIONS else "",
    )
    plan = plan.replace(mirror_axes=plan_mirroring(plan))
    why = _why(f"As nnU-Net planned it: configuration {name} of {plans.get('plans_name', 'nnUNetPlans')}.")
    mirrored = why_mirrored(plan)
    if sided_labels(plan.labels):
        mirrored += " That is by 'orientation': where it has to be corrected, correct these axes as well."
    return plan.replace(why={**why, "mirror_axes": mirrored})


def _configuration(plans: Mapping[str, Any], wanted: str, path: str | os.PathLike) -> tuple[str, dict[str, Any]]:
    """Name and entries of the configuration, those it inherits included."""
    known = plans.get("configurations")
    if not isinstance(known, Mapping) or not known:
        raise PlanError(
            f"{path}: expected 'configurations', received the entries {sorted(plans)[:12]}. Give nnUNetPlans.json, from "
            f"the data set's folder in nnUNet_preprocessed; a dataset_fingerprint.json goes to --fingerprint."
        )
    name = wanted if wanted != "auto" else ("3d_fullres" if "3d_fullres" in known else "2d")
    chain: list[str] = []
    parent: Any = name
    while parent is not None:
        if parent not in known or parent in chain:
            raise PlanError(
                f"{path}: expected configuration to be one of {sorted(known)}, received {parent!r}. Choose one of them."
            )
        chain.append(parent)
        parent = known[parent].get("inherits_from")
    entries: dict[str, Any] = {key: value for heir in reversed(chain) for key, value in known[heir].items()}
    if "previous_stage" in entries:
        raise PlanError(
            f"{path}: configuration {name} refines the masks of {entries['previous_stage']}, and a plan has one stage. "
            f"Import 3d_fullres or {entries['previous_stage']}."
        )
    return name, entries


def _cnn(chosen: Mapping[str, Any], path: str | os.PathLike) -> CNNPlan:
    """The network, from ``architecture`` or from the entries that came before it."""
    if "architecture" in chosen:
        kind, kwargs = str(chosen["architecture"]["network_class_name"]), chosen["architecture"]["arch_kwargs"]
        features, strides, kernels = (kwargs[key] for key in ("features_per_stage", "strides", "kernel_sizes"))
        down, up = kwargs.get("n_conv_per_stage", ()), kwargs.get("n_conv_per_stage_decoder", ())
        blocks = _each(kwargs.get("n_blocks_per_stage", ()), len(strides))
    else:
        kind, strides, kernels = (
            chosen[key] for key in ("UNet_class_name", "pool_op_kernel_sizes", "conv_kernel_sizes")
        )
        base, most = int(chosen["UNet_base_num_features"]), int(chosen["unet_max_num_features"])
        features = [min(most, base * 2**stage) for stage in range(len(strides))]
        down, up, blocks = chosen["n_conv_per_stage_encoder"], chosen["n_conv_per_stage_decoder"], []
    residual = kind.endswith(RESIDUAL)
    convs = {int(count) for count in (*_each([] if residual else down, len(strides)), *_each(up, len(strides) - 1))}
    if not kind.endswith((PLAIN, RESIDUAL)) or len(convs) != 1 or residual != bool(blocks):
        raise PlanError(
            f"{path}: expected a {PLAIN} or {RESIDUAL} with as many convolutions in each stage, received "
            f"{kind.rpartition('.')[2]} with {down} and {up}. Let one of nnU-Net's own planners plan (nnUNetv2_plan_experiment "
            f"-pl ExperimentPlanner), or plan here from its fingerprint (--fingerprint dataset_fingerprint.json)."
        )

    def stages(values: Any) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(int(value) for value in stage) for stage in values)

    widths = tuple(int(width) for width in features)
    preset = "resenc" if residual else "plan"
    return CNNPlan(preset, widths, stages(kernels), stages(strides), convs.pop(), tuple(int(count) for count in blocks))


def _each(counts: Any, stages: int) -> list[Any]:
    return [counts] * stages if isinstance(counts, int) else list(counts)


def _image(plans: Mapping[str, Any], chosen: Mapping[str, Any]) -> tuple[int, int, str | None]:
    """Dimensions of the images, slices of the median image, and the axes' codes."""
    spacing, shape = plans["original_median_spacing_after_transp"], plans["original_median_shape_after_transp"]
    if len(chosen["spacing"]) == 2 and shape[0] == 1 and spacing[0] >= FLAT_SPACING_RATIO * min(spacing[1:]):
        return 2, 1, None
    return 3, int(shape[0]), "".join(FILE_AXES[int(axis)] for axis in plans["transpose_forward"])


def _normalization(
    plans: Mapping[str, Any], chosen: Mapping[str, Any], channels: tuple[str, ...], path: str | os.PathLike
) -> tuple[ChannelNormalization, ...]:
    entries, statistics = [], plans.get("foreground_intensity_properties_per_channel", {})
    for index, (channel, given, masked) in enumerate(
        zip(channels, chosen["normalization_schemes"], chosen["use_mask_for_norm"], strict=False)
    ):
        if given not in SCHEMES:
            raise PlanError(
                f"{path}: expected a normalisation of {sorted(SCHEMES)}, received {given} for channel {channel}. "
                f"Replace it in the file by the nearest of these."
            )
        scheme = SCHEMES[given]
        numbers = ("percentile_00_5", "percentile_99_5", "mean", "std")
        values = [float(statistics[str(index)][key]) for key in numbers] if scheme == "ct" else []
        entries.append(ChannelNormalization(channel, scheme, bool(masked) and scheme == "zscore", *values))
    if len(entries) != len(channels):
        raise PlanError(
            f"{path}: expected a normalisation for each of the {len(channels)} channels in dataset.json, received "
            f"{len(entries)}. Give the dataset.json that belongs to these plans."
        )
    return tuple(entries)


def _networks(task: Task, topology: Topology, cnn: CNNPlan) -> Networks:
    """What the imported CNN costs, beside a Transformer planned for its patch."""
    planned = build_networks(task, topology, cnn.features[0])
    ends = task.in_channels, task.num_classes
    own, usual = cnn_parameters(cnn, *ends), cnn_parameters(planned.cnn, *ends)
    return dataclasses.replace(
        planned,
        cnn=cnn,
        cnn_count=cnn_count(topology, cnn.features, task.num_classes, cnn.convs_per_stage, cnn.blocks_per_stage),
        cnn_flops=cnn_flops(topology.patch, cnn, *ends),
        parameters=planned.parameters - usual + own,
    )


def _why(imported: str) -> dict[str, str]:
    own = "Planned around nnU-Net's patch and network, which has no such part."
    names = (
        "configuration",
        "spatial_dims",
        "spacing_mm",
        "median_shape",
        "normalization",
        "patch_size",
        "batch_labeled",
        "batch_dice",
    )
    axes = (
        f"{imported} Its axes are the file's (z, y, x) in the order of transpose_forward, named as in files stored slice "
        f"by slice from feet to head; for sagittal or coronal stacks, write what they are."
    )
    return {
        **dict.fromkeys((*names, "cnn"), imported),
        "orientation": axes,
        "transformer": own,
        "contrast": own,
        "projection_dim": "The paper's width of the vectors that are contrasted.",
        "separate_z_ratio": "As in nnU-Net.",
        "inference_overlap": "Neighbouring windows share half a patch and are blended by a Gaussian, as in nnU-Net.",
        "memory_gb": "Given, or nnU-Net's default; its plans do not hold the budget they were made for.",
        "device": "nnU-Net plans for a GPU.",
    }
