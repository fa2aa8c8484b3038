"""Run folders as a training leaves them, without the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from bundle.terms import DataTerms
from mcsc_bundle.case_metrics import CaseMetric, write_metrics
from mcsc_bundle.networks import UNet
from mcsc_bundle.plan import CaseFingerprint, Fingerprint, IntensityStats
from tests.plans import make_plan

TERMS = DataTerms("phantoms of the tests", "CC0 1.0\nNobody's rights are touched.")
STATS = IntensityStats(
    mean=50, median=50, std=10, min=20, max=95, percentile_00_5=21, percentile_99_5=90, voxels=100
)  # z-scores -3 to 4.5


def make_run(folder: Path, kind: str = "3d", seed: int = 0, **changes: Any) -> Path:
    """A run of random weights with plan, fingerprint, logs and scores of two held-out cases."""
    torch.manual_seed(seed)
    plan = make_plan(kind, **changes)
    plan.save(folder / "plan.json")
    shape = (10, 20, 18)[: plan.image_dims]
    case = CaseFingerprint(
        case="secret_case_name",
        labeled=True,
        spacing_mm=(1.0,) * plan.image_dims,
        shape=shape,
        shape_after_crop=shape,
        orientation="RAS" if plan.image_dims == 3 else "",
        oblique_degrees=0.0,
        kept_ratio=1.0,
        whole=(STATS,) * plan.in_channels,
        nonzero=(STATS,) * plan.in_channels,
        class_voxels=dict.fromkeys(plan.class_names[1:], 500),
    )
    Fingerprint(plan.dataset_name, plan.channel_names, plan.labels, plan.image_dims, (case,)).save(
        folder / "fingerprint.json"
    )
    (folder / "models").mkdir(exist_ok=True)
    torch.save(UNet.from_plan(plan).state_dict(), folder / "models" / "model.pt")
    (folder / "log.csv").write_text(
        "epoch,iteration,seconds,lr,nonfinite_steps,loss,supervised_cnn\n1,5,30,0.1,0,2.5,2.5\n2,10,30,0.05,0,1.5,1.5\n"
    )
    (folder / "splits.json").write_text(json.dumps({"labeled": ["a"], "unlabeled": [], "test": ["x", "y"]}))
    names = plan.class_names[1:]
    rows = [
        CaseMetric(case, name, dice, dice, 1.0, 0.5, 9, 9) for case, dice in (("x", 0.6), ("y", 0.8)) for name in names
    ]
    write_metrics(rows, folder / "metrics.csv")
    return folder
