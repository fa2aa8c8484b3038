"""Surface distances in voxels, for comparison with published tables that leave out the spacing (D9 in docs/method.md).

In voxels a thick slice counts as much as a step within the slice: read the figures in mm (``metrics.csv``) otherwise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mcsc_bundle.case_metrics import case_metrics
from mcsc_bundle.io import load_label
from mcsc_bundle.metrics import masks_in
from mcsc_bundle.plan import Plan
from preprocessing.dataset import read_dataset


def voxel_distances(run_dir: Path, dataset_dir: str, cases: Iterable[str]) -> dict[str, dict[str, float]]:
    """``hd95_voxels`` and ``asd_voxels``, each the mean over the cases for each class.

    A class that the mask or the reference misses has no distance and is left out, where SSL4MIS counts 0.

    Args:
        run_dir: run folder with ``masks`` and ``plan.json``.
        dataset_dir: the labelled cases.
        cases: those that were evaluated.
    """
    plan, masks = Plan.load(run_dir / "plan.json"), masks_in(run_dir / "masks")
    references = {case.name: case.label for case in read_dataset(dataset_dir).cases}
    found: dict[str, dict[str, list[float]]] = {"hd95_voxels": {}, "asd_voxels": {}}
    for case in cases:
        mask, truth = (np.asarray(load_label(path).as_tensor()[0]) for path in (masks[case], references[case]))
        for row in case_metrics(
            mask, truth, plan.scored_values, (1.0,) * mask.ndim, case, ignore_value=plan.ignore_value
        ):
            for column, value in (("hd95_voxels", row.hd95_mm), ("asd_voxels", row.asd_mm)):
                if math.isfinite(value):
                    found[column].setdefault(row.class_name, []).append(value)
    return {
        column: {name: statistics.mean(values) for name, values in classes.items()} for column, classes in found.items()
    }
