"""Where structures lie: how far the foreground's centre of each test case is from that of the nearest labelled case.

    python -m benchmarks.places ../shared/data/acdc benchmarks/splits/acdc_3.json benchmarks/splits/acdc_tune7_1.json
    ... benchmarks/splits/acdc_tune7_1.json --gain BEFORE.json AFTER.json   # kept results: Dice gained, near and far

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

NEAR_MM, FAR_MM = 15, 30


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


def gained(away: dict[str, float], before: Path, after: Path) -> dict[str, float]:
    """Mean gain in Dice points of the cases nearer than ``NEAR_MM``, and of those ``FAR_MM`` away or more, and their numbers.

    Args:
        away: distance of each case.
        before, after: results of ``benchmarks.label_efficiency`` on the split.
    """
    old, new = (json.loads(path.read_text())["cases"] for path in (before, after))
    row: dict[str, float] = {}
    for name, chosen in (("near", lambda mm: mm < NEAR_MM), ("far", lambda mm: mm >= FAR_MM)):
        gains = [100 * (new[case] - old[case]) for case, mm in away.items() if chosen(mm)]
        row |= {f"{name}_gain": statistics.mean(gains) if gains else float("nan"), f"{name}_cases": len(gains)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir")
    parser.add_argument("splits", nargs="+", help="files with labeled and test")
    parser.add_argument("--gain", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="results of the only split")
    arguments = parser.parse_args()
    labels = {case.name: case.label for case in read_dataset(arguments.dataset_dir).cases if case.label}
    found = {}
    for file in arguments.splits:
        split = json.loads(Path(file).read_text())
        centres = {part: [centre(labels[name]) for name in split[part]] for part in ("labeled", "test")}
        away = distances(centres["labeled"], centres["test"])
        row = {"median_mm": statistics.median(away), "largest_mm": max(away)}
        if arguments.gain:
            row |= gained(dict(zip(split["test"], away, strict=True)), *arguments.gain)
        found[Path(file).stem] = row
    rounded = {name: {key: round(value, 1) for key, value in row.items()} for name, row in found.items()}
    for name, row in rounded.items():
        print(f"{name:<20} nearest labelled centre: median {row['median_mm']} mm, largest {row['largest_mm']} mm")
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
