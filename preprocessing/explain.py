"""A plan as text that a person reads: each choice, its value, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mcsc_bundle.plan import Fingerprint, Plan
from mcsc_bundle.trained import described, plan_record
from mcsc_bundle.words import per_axis
from preprocessing.largest_component import group_name
from preprocessing.mirroring import named_axes

WIDTH = 110
MISSING_REASON = "Set by hand."


def explain(
    plan: Plan, fingerprint: Fingerprint | None = None, planned: Plan | None = None, advice: Sequence[str] = ()
) -> str:
    """The plan as a readable page.

    Args:
        plan: any plan, also one that was edited by hand.
        fingerprint: adds a line on the cases it was made from, and their warnings.
        planned: as it was before anybody edited it; what differs is marked, with the value that the reason is for.
        advice: sentences on the cases, see ``preprocessing.advice``.
    """
    edited = _edited(plan, planned) if planned is not None else {}
    heading = f"Plan for {plan.dataset_name}"
    lines = [heading, "=" * len(heading)]
    if fingerprint is not None:
        lines.append(f"From {len(fingerprint.labeled)} labelled and {len(fingerprint.unlabeled)} unlabelled cases.")
        lines += [_wrapped(f"Warning: {warning}", "") for warning in fingerprint.warnings]
    if not plan.regions:
        classes = ", ".join(f"{name} = {value}" for name, value in plan.labels.items())
        lines.append(_wrapped(f"Classes, by their value in the label files: {classes}.", ""))
    lines += [_wrapped(sentence, "") for sentence in advice]
    if edited:
        lines.append("Edited by hand since it was planned. Figures in the reasons are those of the plan before.")
    for names, title, value in _choices(plan):
        by_hand = [text for name in names for text in edited.pop(name, [])]
        lines += ["", f"{title}: {value}{' (edited by hand)' if by_hand else ''}"]
        reasons = [plan.why[name] for name in names if plan.why.get(name)] or [MISSING_REASON]
        if by_hand:
            reasons = [f"{'; '.join(by_hand)}.", f"The reason for what was planned: {' '.join(reasons)}"]
        lines += [_wrapped(reason, "    ") for reason in reasons]
    rest = [text for texts in edited.values() for text in texts]
    if rest:
        lines += ["", _wrapped(f"Also edited by hand: {'; '.join(rest)}.", "")]
    return "\n".join(lines)


def _edited(plan: Plan, planned: Plan) -> dict[str, list[str]]:
    """By entry, what was edited: ``spacing_mm[0] = 3.0 (planned 1.5)``."""
    before, now = plan_record(planned), plan_record(plan)
    found = {entry: list(described(before, now, [entry], "planned")) for entry in now}
    return {entry: texts for entry, texts in found.items() if texts}


def _choices(plan: Plan) -> list[tuple[tuple[str, ...], str, str]]:
    """Fields that a line stands for, its title, its value."""
    cnn, swin = plan.cnn, plan.transformer
    slices = f", slice by slice along axis {plan.slice_axis}" if plan.slice_axis is not None else ""
    schemes = ", ".join(f"{entry.channel}: {entry.scheme}" for entry in plan.normalization)
    stages = f"channels {cnn.features}, strides {_stages(cnn.strides)}, kernels {_stages(cnn.kernel_sizes)}"
    named = "; ".join(f"{name}: {list(values)}, painted {plan.labels[name]}" for name, values in plan.regions.items())
    regions = [(("regions",), "Regions", named)] if plan.regions else []
    ignored = [] if plan.ignore_value is None else [(("ignore_value",), "Ignored label", str(plan.ignore_value))]
    return [
        *regions,
        *ignored,
        (("device",), "Device", plan.device),
        (("configuration",), "Configuration", plan.configuration or "none of nnU-Net's"),
        (("spatial_dims", "slice_axis"), "Dimensions", f"{plan.spatial_dims}-D networks{slices}"),
        (("orientation",), "Orientation", plan.orientation or "as stored"),
        (("spacing_mm",), "Target spacing", f"{per_axis(plan.spacing_mm)} mm"),
        (("median_shape",), "Median shape", f"{per_axis(plan.median_shape)} voxels"),
        (("separate_z_ratio",), "Separate resampling of thick slices", f"above a ratio of {plan.separate_z_ratio:g}"),
        (("normalization",), "Normalisation", schemes),
        (("patch_size",), "Patch", f"{per_axis(plan.patch_size)} voxels"),
        (
            ("batch_labeled", "batch_unlabeled"),
            "Batch",
            f"{plan.batch_labeled} labelled + {plan.batch_unlabeled} unlabelled patches",
        ),
        (("batch_dice",), "Dice", "over the batch" if plan.batch_dice else "per sample"),
        (("cnn",), "CNN", stages),
        (
            ("transformer",),
            "Transformer",
            f"tokens {per_axis(swin.patch)}, merges {_stages(swin.merges)}, {swin.embed_dim} channels, depths "
            f"{swin.depths}, "
            f"heads {swin.heads}, window {per_axis(swin.window)}",
        ),
        (
            ("contrast", "projection_dim"),
            "Contrast",
            f"{_scales(plan)}; projected to {plan.projection_dim}",
        ),
        (("mirror_axes",), "Mirrored axes", named_axes(plan) if plan.mirror_axes else "none"),
        (("inference_overlap",), "Window overlap", f"{plan.inference_overlap:g}"),
        (
            ("largest_component",),
            "Largest component kept of",
            ", then ".join(map(group_name, plan.largest_component)) or "nothing",
        ),
        (
            ("memory_gb", "estimated_memory_gb", "measured_memory_gb"),
            "Memory",
            f"{_memory(plan)} of {plan.memory_gb:.3g} GB",
        ),
    ]


def _memory(plan: Plan) -> str:
    estimate = f"about {plan.estimated_memory_gb:.3g} GB"
    return estimate if plan.measured_memory_gb is None else f"{estimate}, measured {plan.measured_memory_gb:.3g} GB,"


def _scales(plan: Plan) -> str:
    return "; ".join(
        f"stride {per_axis(scale.stride)}, block {per_axis(scale.block)}, pixels {scale.pixels or 'all'}"
        for scale in plan.contrast
    )


def _stages(stages: tuple[tuple[int, ...], ...]) -> str:
    return " ".join("x".join(map(str, stage)) for stage in stages)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
