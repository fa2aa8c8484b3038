"""``configs/metadata.json``, written from plan and run.

Schema: https://project-monai.github.io/schema/meta_schema_20240725.json, which the model zoo validates against.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np

from bundle.facts import RunFacts
from bundle.terms import PROJECT, Credits
from mcsc_bundle.case_metrics import CaseMetric
from mcsc_bundle.fingerprint import IntensityStats
from mcsc_bundle.plan import ChannelNormalization, Plan
from mcsc_bundle.postprocessing import class_dice

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
CORE = ("monai", "torch", "numpy")  # with entries of their own
OPTIONAL = {"triton"}  # comes with torch for CUDA, in the version that this wants; without it there are no kernels
OURS = ("mcsc_bundle", "preprocessing")
MODALITIES = {
    r"cta?|.*computed tomography.*": "CT",
    r"mra?|.*mri|t[12]\w*|flair|dwi|adc|pd": "MR",  # cineMRI, T1w, T2-FLAIR
    r"pet": "PET",
    r"us|.*ultrasound": "US",
}
SHORT_WORDS = ("ct", "cta", "mr", "mri", "pet", "us", "oct")  # written in capitals
REFERENCES = [
    "Liu, Q., Gu, X., Henderson, P., Deligianni, F.: Multi-Scale Cross Contrastive Learning for Semi-Supervised Medical "
    "Image Segmentation. BMVC 2023. https://arxiv.org/abs/2306.14293",
    "Isensee, F. et al.: nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature "
    "Methods 18 (2021). https://doi.org/10.1038/s41592-020-01008-z",
]
INTENDED_USE = "Research. Not a medical device; not for clinical use."


def make_metadata(
    facts: RunFacts,
    name: str,
    bundle_version: str,
    changelog: Mapping[str, str],
    data_source: str,
    packages: Path,
    credits: Credits = PROJECT,
) -> dict[str, Any]:
    """The metadata without checksums.

    Args:
        facts: the run.
        name: of the bundle.
        bundle_version: of the bundle.
        changelog: version to what changed, newest first.
        data_source: where the data comes from.
        packages: folder that holds the packages which are shipped.
        credits: who answers for it.
    """
    plan = facts.plan
    classes = ", ".join(f"{value} {label}" for label, value in plan.labels.items())
    if plan.regions:
        classes = "regions " + ", ".join(f"{name} (values {_list(own)})" for name, own in plan.regions.items())
    classes += "" if plan.ignore_value is None else f"; {plan.ignore_value} where nobody annotated (no output channel)"
    return {
        "schema": SCHEMA,
        "version": bundle_version,
        "changelog": dict(changelog),
        "monai_version": exact_version("monai"),
        "pytorch_version": exact_version("torch"),
        "numpy_version": exact_version("numpy"),
        "required_packages_version": required_packages(packages),
        "supported_apps": {},
        "name": display_name(name),
        "task": f"{plan.dataset_name}: segmentation of {', '.join(plan.class_names[1:])}",
        "description": credits.description or describe(facts),
        "authors": credits.authors,
        "copyright": credits.copyright or f"Copyright (c) {credits.authors}",
        "data_source": data_source,
        "data_type": "nifti",
        "image_classes": f"{plan.in_channels} channel(s): {', '.join(plan.channel_names)}; {_schemes(plan)}",
        "label_classes": f"one channel of integers: {classes}",
        "pred_classes": _pred_classes(plan, outputs(facts)),
        "eval_metrics": eval_metrics(facts.scores if facts.scored_as_shipped else ()),
        "intended_use": INTENDED_USE,
        "references": REFERENCES,
        "network_data_format": network_data_format(facts),
    }


def _pred_classes(plan: Plan, kind: str) -> str:
    text = f"{plan.out_channels} channels of {kind}: {', '.join(plan.channel_classes)}"
    if not plan.regions:
        return text
    painted = ", ".join(f"{plan.labels[name]} for {name}" for name in plan.regions)
    return f"{text}; each through a sigmoid, they may overlap; masks hold the values {painted}, later ones over earlier ones"


def _list(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def display_name(name: str) -> str:
    """The bundle's name as words: ``Hippocampus MRI segmentation``."""
    words = [word.upper() if word.lower() in SHORT_WORDS else word for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def describe(facts: RunFacts) -> str:
    """What the network is for, and what it learned from."""
    plan = facts.plan
    kind = "the slices of volumes" if plan.slice_axis is not None else f"{plan.spatial_dims}-D images"
    classes = ", ".join(plan.class_names[1:])
    networks = f"a {plan.spatial_dims}-D U-Net"
    if len(facts.runs) > 1:
        networks = f"the average of {len(facts.runs)} {plan.spatial_dims}-D U-Nets"
    scans = f"{len(facts.labeled)} labelled"
    if facts.uses_unlabeled:
        scans += f" and {len(facts.fingerprint.unlabeled)} unlabelled"
    return (
        f"Segments {classes} in {', '.join(plan.channel_names)} scans: {networks} for {kind}, planned for "
        f"the data set {plan.dataset_name} and trained on {scans} scans of it"
        f"{' (semi-supervised)' if facts.uses_unlabeled else ''}."
    )


def outputs(facts: RunFacts) -> str:
    """What the network gives for each class."""
    return "logits" if len(facts.runs) == 1 else f"log-probabilities, averaged over {len(facts.runs)} networks"


def network_data_format(facts: RunFacts) -> dict[str, Any]:
    """Channels, shapes and value ranges of the network's input and output.

    Sizes are multiples of the CNN's stride, and at least twice it: the instance norm at the bottleneck needs more than one
    voxel. Logits have no bounds, which the schema's ``[]`` says.
    """
    plan = facts.plan
    shape = [f"{divisor}*(n+1)" for divisor in plan.cnn.divisor]
    modality = "/".join(dict.fromkeys(_modality(name) for name in plan.channel_names))
    image = {
        "type": "image",
        "format": "hounsfield" if modality == "CT" else "magnitude",
        "modality": modality,
        "num_channels": plan.in_channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": value_range(facts),
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(plan.channel_names)},
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": plan.out_channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(plan.channel_classes)},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def value_range(facts: RunFacts) -> list[int]:
    """Smallest and largest normalised intensity of the training images, rounded outwards; ``[]`` if nothing was measured."""
    bounds: list[float] = []
    for channel, entry in enumerate(facts.plan.normalization):
        for case in facts.fingerprint.cases:
            measured = case.nonzero if entry.inside_mask else case.whole
            if channel < len(measured):
                bounds += _normalized_bounds(entry, measured[channel])
    return [math.floor(min(bounds)), math.ceil(max(bounds))] if bounds else []


def _normalized_bounds(entry: ChannelNormalization, measured: IntensityStats) -> tuple[float, float]:
    if entry.scheme == "ct":
        assert entry.lower is not None and entry.upper is not None and entry.mean is not None and entry.std
        return (entry.lower - entry.mean) / entry.std, (entry.upper - entry.mean) / entry.std
    if entry.scheme in ("rescale_to_0_1", "rgb_to_0_1"):
        return 0.0, 1.0
    if entry.scheme == "none":
        return measured.min, measured.max
    spread = max(measured.std, 1e-8)
    return (measured.min - measured.mean) / spread, (measured.max - measured.mean) / spread


def eval_metrics(scores: Iterable[CaseMetric]) -> dict[str, float]:
    """Mean Dice of each class over the held-out cases, and the mean of these; empty if the run was not evaluated."""
    classes = class_dice(scores)
    if not classes:
        return {}
    mean = float(np.mean(list(classes.values())))
    return {"mean_dice": round(mean, 4), **{f"dice_{name}": round(dice, 4) for name, dice in classes.items()}}


def exact_version(distribution: str) -> str:
    """Installed version as the package index has it: ``2.13.0``, not ``2.13.0+cpu``."""
    return version(distribution).split("+")[0]


def required_packages(packages: Path) -> dict[str, str]:
    """Versions of the distributions that the shipped packages import, found in their source."""
    imported = {
        name.split(".")[0]
        for package in OURS
        for path in (packages / package).rglob("*.py")
        for name in _imports(ast.parse(path.read_text(encoding="utf-8")))
    }
    known = packages_distributions()
    outside = imported - sys.stdlib_module_names - set(OURS) - set(CORE) - OPTIONAL
    found = {known[name][0] for name in outside if name in known} | {"fire", "PyYAML"}  # of monai.bundle itself
    return {name: exact_version(name) for name in sorted(found, key=str.lower)}


def _imports(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _modality(channel: str) -> str:
    words = re.split(r"[^a-z0-9]+", channel.lower())
    found = (modality for word in words for form, modality in MODALITIES.items() if re.fullmatch(form, word))
    return next(found, "n/a")


def _schemes(plan: Plan) -> str:
    words = {
        "zscore": "mean 0 and deviation 1 per image",
        "ct": "clipped and scaled by the data set's foreground",
        "rescale_to_0_1": "scaled to 0 to 1 per image",
        "rgb_to_0_1": "divided by 255",
        "none": "as stored",
    }
    return "; ".join(dict.fromkeys(words[entry.scheme] for entry in plan.normalization))
