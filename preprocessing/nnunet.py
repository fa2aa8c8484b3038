"""Coming from nnU-Net: plan from its ``dataset_fingerprint.json`` and ``dataset.json``, without any image.

Source: nnU-Net v2 ``fingerprint_extractor.py`` (layout of the fingerprint), ``imageio/`` (axis order, 2-D images).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcsc_bundle.plan import CaseFingerprint, Fingerprint, IntensityStats, Plan, PlanError
from preprocessing.planner import make_plan

FLAT_SPACING_RATIO = 900
"""nnU-Net stores a 2-D image as one slice whose thickness is 999 times the pixel (or 999 mm)."""


def plan_from_nnunet(fingerprint_file: str | os.PathLike, dataset_json: str | os.PathLike, **options: Any) -> Plan:
    """Plan from nnU-Net's files.

    Args:
        fingerprint_file, dataset_json: see ``read_nnunet_fingerprint``.
        **options: of ``make_plan``. ``networks="cnn"`` and ``memory_gb=8`` give nnU-Net's own patch, batch, pooling
            and kernels.

    Raises:
        PlanError: a file is missing, is not nnU-Net's, or asks for an impossible plan.
    """
    fingerprint = read_nnunet_fingerprint(fingerprint_file, dataset_json)
    return make_plan(fingerprint, **{"num_cases": _number_of_cases(_read(dataset_json)), **options})


def read_nnunet_fingerprint(fingerprint_file: str | os.PathLike, dataset_json: str | os.PathLike) -> Fingerprint:
    """nnU-Net's fingerprint as ours.

    Axes keep the order of the file, which is SimpleITK's (z, y, x): axis 0 of the plan is axis 0 of the file.
    (nnU-Net's own plans come with the coarsest axis first; ``transpose_forward`` in them tells.) 2-D images, one
    slice of 999 mm in the file, become 2-D. nnU-Net has no unlabelled cases and keeps no case names, so all cases
    count as labelled and are numbered.

    Args:
        fingerprint_file: ``dataset_fingerprint.json``.
        dataset_json: nnU-Net's ``dataset.json``. A region class takes its value from ``regions_class_order``.

    Raises:
        PlanError: a file is missing or lacks an entry.
    """
    measured, declared = _read(fingerprint_file), _read(dataset_json)
    for name in ("spacings", "shapes_after_crop"):
        if not measured.get(name):
            raise PlanError(
                f"{fingerprint_file}: expected a list '{name}' with one entry per case. Is it nnU-Net's "
                f"dataset_fingerprint.json?"
            )
    channels = declared.get("channel_names") or declared.get("modality")
    if not channels or not declared.get("labels"):
        raise PlanError(
            f"{dataset_json}: expected the entries 'channel_names' and 'labels'. Is it nnU-Net's dataset.json?"
        )
    flat = all(
        shape[0] == 1 and spacing[0] >= FLAT_SPACING_RATIO * min(spacing[1:])
        for shape, spacing in zip(measured["shapes_after_crop"], measured["spacings"], strict=True)
    )
    first = 1 if flat else 0
    kept = measured.get("median_relative_size_after_cropping", 1.0)
    cases = tuple(
        CaseFingerprint(
            case=f"case_{index:04d}",
            labeled=True,
            spacing_mm=tuple(float(value) for value in spacing[first:]),
            shape=tuple(int(value) for value in shape[first:]),
            shape_after_crop=tuple(int(value) for value in shape[first:]),
            orientation="",
            oblique_degrees=0.0,
            kept_ratio=float(kept),
        )
        for index, (spacing, shape) in enumerate(zip(measured["spacings"], measured["shapes_after_crop"], strict=True))
    )
    return Fingerprint(
        dataset_name=str(declared.get("name") or Path(dataset_json).resolve().parent.name),
        channel_names=tuple(str(name) for name in channels.values()),
        labels=_labels(declared, dataset_json),
        image_dims=2 if flat else 3,
        cases=cases,
        foreground=_foreground(measured.get("foreground_intensity_properties_per_channel", {})),
    )


def _number_of_cases(declared: Mapping[str, Any]) -> int | None:
    return int(declared["numTraining"]) if declared.get("numTraining") else None


def _labels(declared: Mapping[str, Any], path: str | os.PathLike) -> dict[str, int]:
    """Class values, background first; also from the Decathlon's ``{"1": "liver"}``."""
    labels, order = declared["labels"], iter(declared.get("regions_class_order", ()))
    values: dict[str, int] = {}
    for name, value in labels.items():
        if isinstance(value, str) and str(name).isdigit():
            name, value = value, int(name)
        if name == "background":
            values[name] = 0
        elif "regions_class_order" in declared and name != "ignore":
            values[name] = int(next(order, -1))
        else:
            values[name] = int(value)
    if -1 in values.values():
        raise PlanError(
            f"{path}: expected one value in 'regions_class_order' per region, received "
            f"{declared['regions_class_order']}."
        )
    return dict(sorted(values.items(), key=lambda item: item[1]))


def _foreground(channels: Mapping[str, Mapping[str, float]]) -> tuple[IntensityStats, ...]:
    return tuple(
        IntensityStats(
            mean=float(stats["mean"]),
            median=float(stats["median"]),
            std=float(stats["std"]),
            min=float(stats["min"]),
            max=float(stats["max"]),
            percentile_00_5=float(stats["percentile_00_5"]),
            percentile_99_5=float(stats["percentile_99_5"]),
            voxels=0,
        )
        for _, stats in sorted(channels.items(), key=lambda item: int(item[0]))
    )


def _read(path: str | os.PathLike) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise PlanError(
            f"expected a readable JSON file at {path} ({error}). Give the file that nnU-Net wrote."
        ) from None
    if not isinstance(content, dict):
        raise PlanError(f"{path}: expected a JSON object, received a {type(content).__name__}.")
    return content
