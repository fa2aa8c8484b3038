"""Random data sets for ``benchmarks/plans.py --fuzz``: geometry that real scanners, pipelines and mistakes produce."""

from __future__ import annotations

from typing import Any

import numpy as np

STATISTICS = {
    "mean": 60.0,
    "median": 62.0,
    "std": 30.0,
    "min": -200.0,
    "max": 400.0,
    "percentile_00_5": -100.0,
    "percentile_99_5": 250.0,
}
CHANNELS = ("CT", "ct", "MRI", "T2", "zscore", "noNorm", "rescale_to_0_1", "rgb_to_0_1", "PET", "FLAIR")
KINDS = ("isotropic", "thick", "free", "threshold", "images", "single slice", "tiny", "huge")


def random_files(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contents of ``dataset_fingerprint.json`` and ``dataset.json`` of a made-up data set.

    Spacings run from 0.1 to 10 mm, sizes from 8 to 1000 voxels, cases from 1 to 400, channels from 1 to 8; the coarse
    axis may be any; cases may differ a little, come from several scanners, or be equal up to rounding.
    """
    random = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    cases = int(random.choice([1, 2, 3, random.integers(4, 60), random.integers(60, 401)]))
    spacings, shapes = _cases(random, cases, *_geometry(random, kind))
    if kind == "images":
        shapes[:, 0], spacings[:, 0] = 1, 999 if random.random() < 0.5 else 999 * spacings[:, 1:].max(1)
    if kind == "single slice":
        shapes[:, int(random.integers(3))] = 1
    measured = {
        "spacings": _rounded(random, spacings).tolist(),
        "shapes_after_crop": shapes.tolist(),
        "median_relative_size_after_cropping": float(random.choice([1.0, 0.75, random.uniform(0.05, 1)])),
    }
    channels = [str(name) for name in random.choice(CHANNELS, int(random.integers(1, 9)))]
    measured["foreground_intensity_properties_per_channel"] = {str(i): STATISTICS for i in range(len(channels))}
    declared = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        **_labels(random),
        "numTraining": cases if random.random() < 0.8 else int(random.integers(1, 500)),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }
    return measured, declared


def _geometry(random: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Typical spacing and shape, in a random order of axes."""

    def between(low: float, high: float, count: int | None = None) -> Any:
        return np.exp(random.uniform(np.log(low), np.log(high), count))

    fine, plane = between(0.1, 4), between(32, 1000)
    if kind in ("isotropic", "tiny", "huge"):
        low, high = {"isotropic": (24, 400), "tiny": (8, 24), "huge": (400, 1000)}[kind]
        spacing, shape = np.full(3, fine), between(low, high, 3)
        if random.random() < 0.5:
            spacing[0] *= between(1, 3)
        return spacing, shape
    if kind == "free":
        return between(0.1, 10, 3), between(8, 1000, 3)
    ratio = float(random.choice([2, 3, 3.0000001, 4, 2.9999999])) if kind == "threshold" else between(1.5, 12)
    spacing, shape = np.array([fine * ratio, fine, fine]), np.array([between(4, 120), plane, plane])
    if kind == "threshold":
        shape[0] = round(shape[1] / 3) + int(random.integers(-1, 2))  # on either side of a third of the other axes
    elif kind == "images":
        return spacing, shape * np.array([1, 1, between(0.5, 2)])
    order = random.permutation(3) if random.random() < 0.5 else np.arange(3)
    return np.minimum(spacing, 10)[order], shape[order]


def _cases(
    random: np.random.Generator, cases: int, spacing: np.ndarray, shape: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Spacings and shapes of all cases: equal, spread, or from two scanners."""
    spread = float(random.choice([0, 1e-7, 0.05, 0.3]))
    spacings = spacing * np.exp(spread * random.normal(size=(cases, 3)))
    if random.random() < 0.2:  # another protocol on one axis
        spacings[random.random(cases) < 0.4, int(random.integers(3))] *= float(random.choice([0.5, 2, 3]))
    shapes = shape * np.exp(float(random.choice([0, 0.02, 0.2])) * random.normal(size=(cases, 3)))
    return np.clip(spacings, 0.1, 10), np.clip(shapes.round(), 4, 1000).astype(int)


def _rounded(random: np.random.Generator, spacings: np.ndarray) -> np.ndarray:
    """As headers store them: 64 or 32 bits, or a few decimals."""
    kind = int(random.integers(3))
    if kind == 0:
        return spacings
    return spacings.astype(np.float32).astype(float) if kind == 1 else np.maximum(spacings.round(3), 1e-3)


def _labels(random: np.random.Generator) -> dict[str, Any]:
    """Classes, or regions; sometimes an ignore label."""
    count = int(random.choice([1, 2, 3, 8, 40]))
    labels: dict[str, Any] = {"background": 0, **{f"class_{index}": index for index in range(1, count + 1)}}
    declared: dict[str, Any] = {"labels": labels}
    if random.random() < 0.2:
        labels.update({f"class_{index}": list(range(index, count + 1)) for index in range(1, count + 1)})
        declared["regions_class_order"] = list(range(1, count + 1))
    if random.random() < 0.2:
        labels["ignore"] = count + 1
    return declared
