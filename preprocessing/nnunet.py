"""Coming from nnU-Net: plan from its ``dataset_fingerprint.json`` and ``dataset.json``, without any image.

Source: nnU-Net v2 ``fingerprint_extractor.py`` (layout of the fingerprint), ``imageio/`` (axis order, 2-D images),
``default_experiment_planner.py`` (``determine_transpose``, which configurations there are).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcsc_bundle.plan import CaseFingerprint, Fingerprint, IntensityStats, Plan, PlanError
from preprocessing.families import FAMILIES
from preprocessing.geometry import Geometry, measure_geometry
from preprocessing.mirroring import plan_mirroring, why_mirrored
from preprocessing.nnunet_files import number, read_declared, read_object
from preprocessing.planner import make_plan

FLAT_SPACING_RATIO = 900
"""nnU-Net stores a 2-D image as one slice whose thickness is 999 times the pixel (or 999 mm)."""

FILE_AXES = "SAR"
"""What the axes of nnU-Net's fingerprint, (z, y, x) of the file, stand for in files stored slice by slice from feet to
head. A fingerprint does not tell how its files are stored."""

STATISTICS = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")


def plan_from_nnunet(
    fingerprint_file: str | os.PathLike,
    dataset_json: str | os.PathLike,
    networks: str = "pair",
    memory_gb: float | None = None,
    device: str = "cuda",
    configuration: str = "auto",
    preset: str = "plan",
) -> Plan:
    """Plan from nnU-Net's files, as nnU-Net would.

    The plan's axes are in the order of nnU-Net's plans: the coarsest first, then the others as the file has them (z, y,
    x); ``orientation`` says which anatomical axes these are in files stored slice by slice from feet to head.

    Args:
        fingerprint_file, dataset_json: see ``read_nnunet_fingerprint``.
        networks: ``cnn`` plans one network, which gives nnU-Net's own patch, batch, pooling, kernels and widths;
            ``pair`` shares the memory with the Transformer.
        memory_gb: of the GPU (nnU-Net's ``-gpu_memory_target``); ``None`` is what nnU-Net plans the family for, 8 by default.
        device: ``cuda``, for which nnU-Net plans; ``cpu`` narrows the networks.
        configuration: ``2d``, ``3d_fullres``, ``3d_lowres``, or ``auto`` for nnU-Net's ``3d_fullres``, and its ``2d`` where it
            has no 3-D configuration.
        preset: ``plan``, or ``resenc_m``, ``resenc_l``, ``resenc_xl`` for its residual encoders.

    Raises:
        PlanError: a file is missing, is not nnU-Net's, or asks for an impossible plan.
    """
    fingerprint = read_nnunet_fingerprint(fingerprint_file, dataset_json)
    cases = number(read_object(dataset_json).get("numTraining", len(fingerprint.cases)), dataset_json, "numTraining")
    geometry = measure_geometry(fingerprint, int(cases))
    as_theirs = "3d_fullres" if _has_3d(fingerprint, geometry) else "2d"
    order = geometry.order
    asked = as_theirs if configuration == "auto" else configuration
    if memory_gb is None and preset in FAMILIES:
        memory_gb = FAMILIES[preset].memory_gb
    plan = make_plan(_transposed(fingerprint, order), memory_gb, device, networks, asked, int(cases), preset=preset)
    if configuration == "auto":
        why = "nnU-Net's 3d_fullres." if asked != "2d" else "nnU-Net's 2d: it has no 3-D configuration for one slice."
        plan = plan.replace(why={**plan.why, "configuration": why, "spatial_dims": why})
    if plan.image_dims == 2:
        return plan
    axes = "".join(FILE_AXES[axis] for axis in order)
    reason = (
        f"Axes as in nnU-Net's plans: the coarsest of its fingerprint's axes (z, y, x) first, transpose_forward "
        f"{list(order)}. {axes} brings images to that order if their files are stored slice by slice from feet to head; "
        f"for sagittal or coronal stacks, write what these axes are."
    )
    plan = plan.replace(orientation=axes)
    plan = plan.replace(mirror_axes=plan_mirroring(plan))  # which axis goes from left to right is known now
    return plan.replace(why={**plan.why, "orientation": reason, "mirror_axes": why_mirrored(plan)})


def read_nnunet_fingerprint(fingerprint_file: str | os.PathLike, dataset_json: str | os.PathLike) -> Fingerprint:
    """nnU-Net's fingerprint as ours.

    Axes keep the order of the file, which is SimpleITK's (z, y, x). 2-D images, one slice of 999 mm in the file, become
    2-D. nnU-Net has no unlabelled cases and keeps no case names, so all cases count as labelled and are numbered.

    Args:
        fingerprint_file: ``dataset_fingerprint.json``.
        dataset_json: nnU-Net's ``dataset.json``. A region class takes its value from ``regions_class_order``.

    Raises:
        PlanError: a file is missing, lacks an entry, or has one that cannot be.
    """
    measured, content = read_object(fingerprint_file), read_object(dataset_json)
    spacings = _triples(measured, "spacings", fingerprint_file, positive=True)
    shapes = _triples(measured, "shapes_after_crop", fingerprint_file)
    if len(spacings) != len(shapes):
        raise PlanError(
            f"{fingerprint_file}: expected as many 'shapes_after_crop' as 'spacings', received {len(shapes)} and "
            f"{len(spacings)}. Let nnU-Net extract the fingerprint again (nnUNetv2_extract_fingerprint)."
        )
    declared = read_declared(content, dataset_json)
    flat = all(
        shape[0] == 1 and spacing[0] >= FLAT_SPACING_RATIO * min(spacing[1:])
        for shape, spacing in zip(shapes, spacings, strict=True)
    )
    first = 1 if flat else 0
    kept = number(measured.get("median_relative_size_after_cropping", 1.0), fingerprint_file, "kept share")
    cases = tuple(
        CaseFingerprint(
            case=f"case_{index:04d}",
            labeled=True,
            spacing_mm=tuple(spacing[first:]),
            shape=tuple(int(value) for value in shape[first:]),
            shape_after_crop=tuple(int(value) for value in shape[first:]),
            orientation="",
            oblique_degrees=0.0,
            kept_ratio=kept,
        )
        for index, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
    )
    return Fingerprint(
        dataset_name=str(content.get("name") or Path(dataset_json).resolve().parent.name),
        channel_names=declared.channel_names,
        labels=declared.labels,
        image_dims=2 if flat else 3,
        cases=cases,
        foreground=_foreground(measured, fingerprint_file),
        ignore_value=declared.ignore_value,
        regions=declared.regions,
    )


def _has_3d(fingerprint: Fingerprint, geometry: Geometry) -> bool:
    """nnU-Net plans 3-D unless the coarsest axis is a single slice in the median."""
    return fingerprint.image_dims == 3 and geometry.median_shape[geometry.coarse_axis] > 1


def _transposed(fingerprint: Fingerprint, order: Sequence[int]) -> Fingerprint:
    """The fingerprint with its axes in nnU-Net's order."""
    cases = tuple(
        dataclasses.replace(
            case,
            spacing_mm=tuple(case.spacing_mm[axis] for axis in order),
            shape=tuple(case.shape[axis] for axis in order),
            shape_after_crop=tuple(case.shape_after_crop[axis] for axis in order),
        )
        for case in fingerprint.cases
    )
    return dataclasses.replace(fingerprint, cases=cases)


def _triples(
    measured: Mapping[str, Any], name: str, path: str | os.PathLike, positive: bool = False
) -> list[list[float]]:
    """One entry per case, three numbers each."""
    entries = measured.get(name)
    if not isinstance(entries, list) or not entries:
        raise PlanError(
            f"{path}: expected a list '{name}' with one entry per case, received {_short(entries)}. Give nnU-Net's "
            f"dataset_fingerprint.json, from the data set's folder in nnUNet_preprocessed."
        )
    for index, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 3 or not all(_is_size(value) for value in entry):
            raise PlanError(
                f"{path}: expected three positive numbers (z, y, x) in '{name}', received {_short(entry)} for case "
                f"{index}. Mend that case's header and let nnU-Net extract the fingerprint again."
            )
    return [[float(value) for value in entry] for entry in entries]


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _foreground(measured: Mapping[str, Any], path: str | os.PathLike) -> tuple[IntensityStats, ...]:
    """Statistics per channel, in the order of the channels."""
    name = "foreground_intensity_properties_per_channel"
    channels = measured.get(name, measured.get("foreground_intensity_properties_by_modality")) or {}
    try:
        ordered = [channels[key] for key in sorted(channels, key=int)]
        return tuple(IntensityStats(**{key: float(stats[key]) for key in STATISTICS}, voxels=0) for stats in ordered)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(
            f"{path}: expected the numbers {', '.join(STATISTICS)} for each channel in '{name}', received "
            f"{_short(channels)} ({error!r}). Let nnU-Net extract the fingerprint again."
        ) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
