"""Where structures lie: how far the foreground's centre of each test case is from that of the nearest labelled case.

    python -m benchmarks.places ../shared/data/acdc benchmarks/splits/acdc_3.json benchmarks/splits/acdc_tune7_1.json

Centres count from the middle of the image, in mm, in the plane of the two finest axes. Networks whose patch is as large as the
image see each structure where the labelled cases have it, unless patches move (``leeway``).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from monai.transforms import Orientation

from mcsc_bundle.io import load_label, spacing_mm
from preprocessing.dataset import read_dataset


def centre(label: str | Path) -> np.ndarray:
    """Of the foreground, from the middle of the image, in mm along the two finest axes in RAS order."""
    image = load_label(label)
    if image.ndim == 4:
        image = Orientation(axcodes="RAS", labels=None)(image)
    spacing = np.asarray(spacing_mm(image))
    plane = sorted(np.argsort(spacing, kind="stable")[:2])
    voxels = np.argwhere(np.asarray(image)[0] > 0)
    return ((voxels.mean(0) - (np.asarray(image.shape[1:]) - 1) / 2) * spacing)[plane]


def distances(labeled: list[np.ndarray], test: list[np.ndarray]) -> list[float]:
    """Of each test centre to the nearest labelled one."""
    return [min(float(np.linalg.norm(one - other)) for other in labeled) for one in test]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir")
    parser.add_argument("splits", nargs="+", help="files with labeled and test")
    arguments = parser.parse_args()
    labels = {case.name: case.label for case in read_dataset(arguments.dataset_dir).cases if case.label}
    found = {}
    for file in arguments.splits:
        split = json.loads(Path(file).read_text())
        centres = {part: [centre(labels[name]) for name in split[part]] for part in ("labeled", "test")}
        away = distances(centres["labeled"], centres["test"])
        found[Path(file).stem] = {"median_mm": statistics.median(away), "largest_mm": max(away)}
    rounded = {name: {key: round(value, 1) for key, value in row.items()} for name, row in found.items()}
    for name, row in rounded.items():
        print(f"{name:<20} nearest labelled centre: median {row['median_mm']} mm, largest {row['largest_mm']} mm")
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
