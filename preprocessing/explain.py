"""A plan as text that a person reads: each choice, its value, and why."""

from __future__ import annotations

import textwrap

from mcsc_bundle.plan import Fingerprint, Plan
from preprocessing.reasons import per_axis

WIDTH = 110
MISSING_REASON = "Set by hand."


def explain(plan: Plan, fingerprint: Fingerprint | None = None) -> str:
    """The plan as a readable page.

    Args:
        plan: any plan, also one that was edited by hand.
        fingerprint: adds a line on the cases it was made from, and their warnings.
    """
    heading = f"Plan for {plan.dataset_name}"
    lines = [heading, "=" * len(heading)]
    if fingerprint is not None:
        lines.append(f"From {len(fingerprint.labeled)} labelled and {len(fingerprint.unlabeled)} unlabelled cases.")
        lines += [_wrapped(f"Warning: {warning}", "") for warning in fingerprint.warnings]
    for names, title, value in _choices(plan):
        lines += ["", f"{title}: {value}"]
        reasons = [plan.why[name] for name in names if plan.why.get(name)] or [MISSING_REASON]
        lines += [_wrapped(reason, "    ") for reason in reasons]
    return "\n".join(lines)


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
        (("mirror_axes",), "Mirrored axes", ", ".join(map(str, plan.mirror_axes)) or "none"),
        (("inference_overlap",), "Window overlap", f"{plan.inference_overlap:g}"),
        (
            ("memory_gb", "estimated_memory_gb"),
            "Memory",
            f"about {plan.estimated_memory_gb:.3g} GB of {plan.memory_gb:.3g} GB",
        ),
    ]


def _scales(plan: Plan) -> str:
    return "; ".join(
        f"stride {per_axis(scale.stride)}, block {per_axis(scale.block)}, pixels {scale.pixels or 'all'}"
        for scale in plan.contrast
    )


def _stages(stages: tuple[tuple[int, ...], ...]) -> str:
    return " ".join("x".join(map(str, stage)) for stage in stages)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
