"""From a fingerprint to a plan: nnU-Net's rules for one network, extended to a pair of networks and to a CPU."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

import torch

from mcsc_bundle.plan import ChannelNormalization, Fingerprint, Plan, PlanError
from mcsc_bundle.plan_parts import CASCADE
from preprocessing.axes import keep_slices_together
from preprocessing.coarser import plan_coarser
from preprocessing.compute import FORWARD_AND_BACKWARD
from preprocessing.configuration import (
    as_cascade,
    check_configuration,
    choose_dimensions,
    choose_resolution,
    slices_only,
)
from preprocessing.contrast import plan_contrast
from preprocessing.decisions import Decisions
from preprocessing.families import FAMILIES
from preprocessing.geometry import Geometry, measure_geometry
from preprocessing.largest_component import plan_largest_component
from preprocessing.machine import available_bytes
from preprocessing.mirroring import plan_mirroring
from preprocessing.reasons import reasons
from preprocessing.sizing import (
    CPU_MEMORY_CAP_GB,
    CPU_STEP_SECONDS,
    Task,
    build_networks,
    fit_networks,
    memory_of_step,
    plan_lowres,
)

SCHEMES = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}
"""Channel names that name their normalisation (nnU-Net ``map_channel_name_to_normalization.py``); else z-score."""

MASK_BELOW_KEPT_RATIO = 3 / 4
"""Normalise inside the non-zero voxels if cropping to them keeps less than this share of the image (nnU-Net)."""


def make_plan(
    fingerprint: Fingerprint,
    memory_gb: float | None = None,
    device: str = "auto",
    networks: str = "pair",
    configuration: str = "auto",
    num_cases: int | None = None,
    step_seconds: float | None = None,
    preset: str = "plan",
) -> Plan:
    """Plan preprocessing, networks and training of a data set.

    Args:
        fingerprint: what was measured on its training cases.
        memory_gb: memory for one training process; ``None`` takes nine tenths of the GPU's, or half of the free memory, at most
            8, on a CPU.
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA if there is a GPU). On a CPU the plan narrows the networks, see
            ``sizing``, and may see slices at a coarser resolution, see ``coarser``.
        networks: ``pair`` counts CNN and Transformer; ``cnn`` counts the CNN alone, which gives nnU-Net's plan.
        configuration: ``2d``, ``3d_fullres``, ``3d_lowres`` or ``auto``: 2-D for images, and slice by slice for volumes with
            thick slices; 3-D otherwise, see ``configuration.choose_resolution``. Or ``3d_cascade_fullres``, where there is a
            3d_lowres.
        num_cases: training cases, if the fingerprint lists fewer.
        preset: family of the CNN: ``plan``, ``resenc_m``, ``resenc_l`` or ``resenc_xl`` (see ``families``).
        step_seconds: on a CPU, time that a step may take on two cores; ``None`` is 2 s. Of no effect on a GPU.

    Returns:
        The plan, with the reason for each choice in ``why``.

    Raises:
        PlanError: an impossible request; the message says what would be possible.
    """
    _check_request(fingerprint, memory_gb, device, networks, step_seconds, preset)
    check_configuration(fingerprint, configuration)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    family = FAMILIES[preset]
    usual = family.memory_gb if preset != "plan" and device == "cuda" else default_memory_gb(device)
    budget = usual if memory_gb is None else float(memory_gb)
    fingerprint, as_stored = keep_slices_together(fingerprint)
    geometry = measure_geometry(fingerprint, num_cases)
    if as_stored:
        geometry = replace(geometry, orientation=None)
    spatial_dims, slice_axis, why_dims = choose_dimensions(fingerprint, geometry, configuration)
    axes = tuple(axis for axis in geometry.order if axis != slice_axis)
    task = Task(
        spacing_mm=tuple(geometry.spacing_mm[axis] for axis in axes),
        median_shape=tuple(geometry.median_shape[axis] for axis in axes),
        dataset_voxels=geometry.voxels,
        in_channels=len(fingerprint.channel_names),
        num_classes=len(fingerprint.labels) + (fingerprint.ignore_value is not None),  # what nnU-Net counts
        memory_gb=budget,
        device=device,
        pair=networks == "pair",
        step_seconds=CPU_STEP_SECONDS if step_seconds is None else float(step_seconds),
        family=family,
        labeled_share=len(fingerprint.labeled) / len(fingerprint.cases) if networks == "pair" else 1.0,
    )
    why = slices_only(fingerprint, configuration == "2d")
    decisions = Decisions(
        geometry, task, fit_networks(task), axes, slice_axis, "2d", why, why_dims, None, memory_gb is None
    )
    decisions = (
        _at_resolution(fingerprint, configuration, decisions)
        if spatial_dims == 3
        else _at_coarser(fingerprint, decisions)
    )
    plan = _assemble(fingerprint, decisions)
    return as_cascade(plan) if configuration == CASCADE else plan


def _at_resolution(fingerprint: Fingerprint, asked: str, made: Decisions) -> Decisions:
    """What was decided for volumes at full resolution, with the resolution that they are seen at.

    Raises:
        PlanError: see ``choose_resolution``.
    """
    patch = made.sizing.networks.topology.patch
    lowres = plan_lowres(made.task, patch)
    share = math.prod(patch) / math.prod(made.task.median_shape)
    chosen, why = choose_resolution(fingerprint, asked, share, lowres)
    made = replace(made, configuration=chosen, why_configuration=why)
    if lowres is None:
        return made
    spacing, shape = lowres.task.spacing_mm, lowres.task.median_shape
    made = replace(made, lowres_mm=spacing)
    if chosen == "3d_fullres":
        return made
    geometry = replace(made.geometry, spacing_mm=made.in_image_order(spacing), median_shape=made.in_image_order(shape))
    return replace(made, geometry=geometry, task=lowres.task, sizing=lowres.sizing)


def _at_coarser(fingerprint: Fingerprint, made: Decisions) -> Decisions:
    """What was decided for slices at full resolution, or at a coarser one on a CPU."""
    coarser = plan_coarser(made.task, fingerprint)
    if coarser is None:
        return made
    scale = [1 if axis == made.slice_axis else coarser.factor for axis in range(fingerprint.image_dims)]
    spacing = tuple(size * by for size, by in zip(made.geometry.spacing_mm, scale, strict=True))
    shape = tuple(length / by for length, by in zip(made.geometry.median_shape, scale, strict=True))
    geometry = replace(made.geometry, spacing_mm=spacing, median_shape=shape)
    return replace(made, geometry=geometry, task=coarser.task, sizing=coarser.sizing, coarser=coarser)


def _assemble(fingerprint: Fingerprint, made: Decisions) -> Plan:
    """Bring the decisions to the image's axis order and into a plan."""
    geometry, task, sizing, slice_axis = made.geometry, made.task, made.sizing, made.slice_axis
    dims, image_dims = task.dims, fingerprint.image_dims
    back = sorted(range(dims), key=lambda index: made.axes[index])
    spacing = tuple(task.spacing_mm[index] for index in back)
    placed = Task(**{**vars(task), "spacing_mm": spacing, "median_shape": tuple(task.median_shape[i] for i in back)})
    nets = build_networks(placed, sizing.networks.topology.permuted(back), sizing.networks.cnn.features[0])
    patch, batch = nets.topology.patch, sizing.batch
    labeled, unlabeled = split_batch(batch, len(fingerprint.unlabeled) > 0)
    flops = FORWARD_AND_BACKWARD * batch * (nets.cnn_flops + nets.transformer_flops)
    plan = Plan(
        dataset_name=fingerprint.dataset_name,
        channel_names=fingerprint.channel_names,
        labels=fingerprint.labels,
        ignore_value=fingerprint.ignore_value,
        regions=fingerprint.regions,
        image_dims=image_dims,
        spatial_dims=dims,
        slice_axis=slice_axis,
        orientation=geometry.orientation,
        spacing_mm=tuple(None if axis == slice_axis else geometry.spacing_mm[axis] for axis in range(image_dims)),
        median_shape=_median_shape(fingerprint, geometry, slice_axis),
        normalization=plan_normalization(fingerprint),
        patch_size=patch,
        batch_labeled=labeled,
        batch_unlabeled=unlabeled,
        batch_dice=dims == 2 or (made.lowres_mm is not None and made.configuration == "3d_fullres"),
        cnn=nets.cnn,
        transformer=nets.transformer,
        contrast=plan_contrast(patch, nets.cnn, nets.transformer, batch, flops),
        memory_gb=task.memory_gb,
        estimated_memory_gb=round(memory_of_step(nets, batch, task.device), 2),
        device=task.device,
        configuration=made.configuration,
    )
    groups, why_groups = plan_largest_component(fingerprint)
    plan = plan.replace(mirror_axes=plan_mirroring(plan), largest_component=groups)
    return plan.replace(why={**reasons(plan, fingerprint, made), "largest_component": why_groups})


def _median_shape(fingerprint: Fingerprint, geometry: Geometry, slice_axis: int | None) -> tuple[int, ...]:
    """Median shape on the plan's grid; along a slice axis the cases keep their own slices."""
    shape = [round(length) for length in geometry.median_shape]
    if slice_axis is not None:
        shape[slice_axis] = round(median(case.shape_after_crop[slice_axis] for case in fingerprint.cases))
    return tuple(shape)


def plan_normalization(fingerprint: Fingerprint) -> tuple[ChannelNormalization, ...]:
    """Normalisation of each channel by its name.

    Raises:
        PlanError: a CT channel without foreground statistics.
    """
    inside = median_kept_ratio(fingerprint) < MASK_BELOW_KEPT_RATIO
    entries = []
    for index, name in enumerate(fingerprint.channel_names):
        scheme = SCHEMES.get(name.casefold(), "zscore")
        if scheme != "ct":
            entries.append(ChannelNormalization(name, scheme, inside_mask=inside and scheme == "zscore"))
            continue
        if index >= len(fingerprint.foreground):
            raise PlanError(
                f"Planning {fingerprint.dataset_name}: expected foreground statistics for the CT channel '{name}', "
                f"received none: no labelled case holds foreground. Label at least one case, or name the channel "
                f"'zscore' in dataset.json."
            )
        stats = fingerprint.foreground[index]
        limits = stats.percentile_00_5, stats.percentile_99_5
        entries.append(ChannelNormalization(name, "ct", False, *limits, stats.mean, max(stats.std, 1e-8)))
    return tuple(entries)


def median_kept_ratio(fingerprint: Fingerprint) -> float:
    """Median over the cases of the share of voxels that cropping to non-zero keeps."""
    return median(case.kept_ratio for case in fingerprint.cases)


def split_batch(batch: int, has_unlabeled: bool) -> tuple[int, int]:
    """Labelled and unlabelled patches of a batch: half and half (the paper: 2 + 2), the odd one labelled."""
    return (batch - batch // 2, batch // 2) if has_unlabeled else (batch, 0)


def default_memory_gb(device: str) -> float:
    """Memory a plan may use: nine tenths of the GPU's, or half of what is free on the machine and in its container, at most 8 GB.

    The last tenth is for what a trial of a step does not see: cuDNN's search, other processes' contexts, fragmentation.
    """
    if device == "cuda":
        if not torch.cuda.is_available():
            return CPU_MEMORY_CAP_GB
        return 0.9 * torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9
    return round(min(CPU_MEMORY_CAP_GB, available_bytes() / 2e9), 1)


def _check_request(
    fingerprint: Fingerprint,
    memory_gb: float | None,
    device: str,
    networks: str,
    step_seconds: float | None,
    preset: str,
) -> None:
    def refuse(argument: str, expected: str, received: object) -> None:
        raise PlanError(
            f"Planning {fingerprint.dataset_name}: expected {argument} to be {expected}, received {received!r}."
        )

    if networks not in ("pair", "cnn"):
        refuse("networks", "'pair' or 'cnn'", networks)
    if device not in ("auto", "cpu", "cuda"):
        refuse("device", "'cpu', 'cuda' or 'auto'", device)
    if preset not in FAMILIES:
        refuse("preset", f"one of {', '.join(FAMILIES)}", preset)
    if memory_gb is not None and not memory_gb > 0:
        refuse("memory_gb", "a positive number of gigabytes", memory_gb)
    if step_seconds is not None and not step_seconds > 0:
        refuse("step_seconds", "a positive number of seconds", step_seconds)
