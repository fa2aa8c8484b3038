"""Made-up data sets that span what people segment, as the two files that nnU-Net plans from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Example:
    """A made-up data set: median spacing and shape in file order (z, y, x), and how much the cases vary."""

    name: str
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    cases: int = 40
    channels: tuple[str, ...] = ("MRI",)
    labels: int = 2
    vary_spacing: float = 0.0
    vary_shape: float = 0.0
    kept: float = 1.0


EXAMPLES = (
    Example("isotropic cube", (1, 1, 1), (64, 64, 64), channels=("CT",)),
    Example(
        "isotropic brain", (1, 1, 1), (155, 192, 160), cases=484, channels=("FLAIR", "T1w", "t1gd", "T2w"), kept=0.3
    ),
    Example("abdominal CT", (1.5, 0.8, 0.8), (200, 512, 512), channels=("CT",), labels=3),
    Example("liver CT, mixed", (1.0, 0.77, 0.77), (432, 512, 512), 131, ("CT",), 3, 0.3, 0.3),
    Example("whole-body CT", (0.8, 0.8, 0.8), (900, 512, 512), 60, ("CT",), 105, 0.1, 0.2),
    Example("huge CT", (0.5, 0.4, 0.4), (1200, 768, 768), 25, ("CT",), 4),
    Example("lung CT, thick", (5, 0.7, 0.7), (60, 512, 512), 63, ("CT",), 2, 0.2, 0.2),
    Example("pelvic CT, coarse", (2.5, 0.98, 0.98), (110, 512, 512), 30, ("CT",), 6),
    Example("cardiac cine", (10, 1.5, 1.5), (10, 256, 216), 140, labels=4),
    Example("cardiac cine, mixed", (9, 1.5, 1.5), (10, 240, 210), 140, labels=4, vary_spacing=0.4, vary_shape=0.2),
    Example("prostate T2", (3.6, 0.62, 0.62), (20, 320, 320), 32, ("T2", "ADC"), 3, 0.1, 0.1),
    Example("prostate at the threshold", (1.8, 0.6, 0.6), (60, 320, 320), 48),
    Example("abdominal MR", (7.7, 1.25, 1.25), (34, 256, 256), 14, labels=5),
    Example("spine MR, sagittal", (0.6, 0.6, 4.4), (512, 512, 15), 80, labels=8, vary_spacing=0.1, vary_shape=0.1),
    Example("knee MR, sagittal middle", (0.36, 0.7, 0.36), (384, 160, 384), 100, labels=6),
    Example("hippocampus crops", (1, 1, 1), (36, 50, 35), 260, labels=3, vary_shape=0.15),
    Example("tiny crops", (1, 1, 1), (14, 16, 13), 50),
    Example("tiny anisotropic crops", (3, 0.5, 0.5), (6, 30, 26), 50),
    Example("single thick slice", (8, 1, 1), (1, 256, 256), 90, labels=3),
    Example("cell images", (999, 1, 1), (1, 696, 520), 120, ("rgb_to_0_1",) * 3, 3, 0.0, 0.2),
    Example("dermoscopy", (999, 1, 1), (1, 1536, 2048), 900, ("R", "G", "B")),
    Example("small slides", (999, 1, 1), (1, 96, 96), 30),
    Example("many channels", (2, 1, 1), (80, 192, 192), 60, tuple(f"echo{index}" for index in range(24)), 4),
    Example("three cases", (1, 0.9, 0.9), (180, 220, 200), 3, labels=4, vary_spacing=0.2, vary_shape=0.1),
    Example("one case", (3, 1, 1), (40, 128, 128), 1),
    Example("PET and CT", (3, 4.07, 4.07), (326, 168, 168), 200, ("CT", "zscore"), 2),
    Example("microscopy, thin z", (0.2, 0.1, 0.1), (30, 1024, 1024), 12, ("rescale_to_0_1",), 2),
    Example("ultrasound", (0.25, 0.25, 0.3), (400, 350, 300), 75, ("noNorm",), 2, 0.2, 0.2),
    Example("mouse micro-CT", (0.1, 0.1, 0.1), (560, 310, 280), 140, ("CT",), 7, 0.05, 0.1),
    Example("just divisible", (1, 1, 1), (128, 128, 128), 20),
    Example("elongated", (1, 1, 1), (24, 24, 400), 50),
    Example("plate", (0.5, 2.5, 0.5), (300, 12, 300), 50, vary_spacing=0.3),
)


WITHOUT_IMAGES = {
    "overwrite_image_reader_writer": "SimpleITKIO",
    "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
}
"""Entries of ``dataset.json`` with which nnU-Net plans where no image is."""


def write_example(example: Example, raw: Path, preprocessed: Path, seed: int) -> None:
    """nnU-Net's two files for a made-up data set."""
    random = np.random.default_rng(seed)
    stretch = np.exp(random.normal(0, 1, (example.cases, 3)))
    spacings = np.array(example.spacing) * stretch**example.vary_spacing
    flat = example.shape[0] == 1
    if flat:
        spacings[:, 0] = example.spacing[0]
    shapes = np.array(example.shape) * np.exp(random.normal(0, 1, (example.cases, 3))) ** example.vary_shape
    shapes = np.maximum(1, shapes.round().astype(int))
    if flat:
        shapes[:, 0] = 1
    statistics = {"mean": 60.0, "median": 62.0, "std": 30.0, "min": -200.0, "max": 400.0}
    statistics |= {"percentile_00_5": -100.0, "percentile_99_5": 250.0}
    measured = {
        "spacings": spacings.tolist(),
        "shapes_after_crop": shapes.tolist(),
        "median_relative_size_after_cropping": example.kept,
        "foreground_intensity_properties_per_channel": {str(i): statistics for i in range(len(example.channels))},
    }
    declared = {
        "name": example.name,
        "channel_names": {str(index): name for index, name in enumerate(example.channels)},
        "labels": {"background": 0, **{f"class_{index}": index for index in range(1, example.labels)}},
        "numTraining": example.cases,
        "file_ending": ".nii.gz",
        **WITHOUT_IMAGES,
    }
    for folder, name, content in (
        (raw, "dataset.json", declared),
        (preprocessed, "dataset_fingerprint.json", measured),
    ):
        folder.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))


def place(work: Path, name: str) -> tuple[Path, Path]:
    """Where nnU-Net looks for a data set's fingerprint and ``dataset.json``."""
    return work / "preprocessed" / name / "dataset_fingerprint.json", work / "raw" / name / "dataset.json"
