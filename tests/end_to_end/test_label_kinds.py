"""From scans with every kind of labels to masks and scores, by the product's own configs.

The slow tests do the same on derived phantoms with every method, and on a real data set:

    MCSC_HIPPOCAMPUS=DATA python -m pytest -m slow tests/end_to_end/test_label_kinds.py
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mcsc_bundle.plan import Fingerprint, Plan
from tests.end_to_end.derived import derive
from tests.end_to_end.road import SHORT, small_dataset, train, workflow

KINDS = {
    "plain": {},
    "ignore": {"ignore": True},
    "regions": {"regions": True},
    "both": {"ignore": True, "regions": True},
}
LEARNT = 0.2  # Dice that a minute of MCSC passes, and a network that has not learnt its labels does not
METHODS = ("", "supervised", "mean_teacher", "uamt", "cps", "urpc", "bcp", "cross_teaching", "mcsc_paper")


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data") / "hearts")


def road(
    dataset: Path, run: Path, *overlays: str, **options
) -> tuple[Plan, list[dict[str, str]], dict[str, np.ndarray]]:
    """Train, evaluate and predict; plan, scores, and the masks of the held-out cases."""
    options = {"num_labeled": 2, "num_test": 1, "fold": 0, "val_interval": 1, **SHORT, "max_epochs": 1, **options}
    train(dataset, run, *overlays, **options)
    workflow(["train.yaml", *overlays, "evaluate.yaml"], dataset_dir=str(dataset), output_dir=str(run), **options).run()
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    masks = {path.name: np.asarray(nib.load(path).dataobj) for path in (run / "masks").glob("*.nii.gz")}
    return Plan.load(run / "plan.json"), rows, masks


def check_road(dataset: Path, run: Path, *overlays: str, **options) -> None:
    """What holds of every kind of labels: every class is scored, masks hold its values alone, validation has a number."""
    plan, rows, masks = road(dataset, run, *overlays, **options)
    assert {row["class_name"] for row in rows} == set(plan.class_names[1:])
    assert masks and all(set(np.unique(mask)) <= set(plan.labels.values()) for mask in masks.values())
    (validation,) = csv.DictReader((run / "validation.csv").open())
    assert 0 <= float(validation["mean_dice"]) <= 1
    for row in rows:  # the reference that was scored is what was annotated of it
        reference = np.asarray(nib.load(next((dataset / "labels").glob(f"{row['case']}.nii*"))).dataobj)
        assert int(row["reference_voxels"]) == np.isin(reference, plan.scored_values[row["class_name"]]).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_from_scans_to_scores(hearts, tmp_path, kind):
    check_road(derive(hearts, tmp_path / "data", **KINDS[kind]), tmp_path / "run", "method_supervised.yaml")
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert plan.ignore_value == (4 if "ignore" in KINDS[kind] else None)
    assert plan.out_channels == (3 if "regions" in KINDS[kind] else 4)


def test_foreground_statistics_are_of_annotated_voxels(hearts, tmp_path):
    data, run = derive(hearts, tmp_path / "data", ignore=True), tmp_path / "run"
    workflow(["train.yaml"], dataset_dir=str(data), output_dir=str(run), workers=1).parser.get_parsed_content(
        "prepared"
    )
    for case in Fingerprint.load(run / "fingerprint.json").labeled:
        label = np.asarray(nib.load(data / "labels" / f"{case.case}.nii.gz").dataobj)
        assert case.ignored_voxels == (label == 4).sum() > label.size / 2
        assert list(case.class_voxels.values()) == [(label == value).sum() for value in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("configuration", ("2d", "3d_fullres"))
def test_every_method_on_phantoms(hearts, tmp_path, kind, method, configuration):
    data = derive(hearts, tmp_path / "data", **KINDS[kind])
    overlay = (f"method_{method}.yaml",) if method else ()
    check_road(data, tmp_path / "run", *overlay, configuration=configuration, memory_gb=2)


@pytest.mark.slow
@pytest.mark.skipif("MCSC_HIPPOCAMPUS" not in os.environ, reason="MCSC_HIPPOCAMPUS names no Decathlon folder")
@pytest.mark.parametrize("kind", KINDS)
def test_a_real_data_set(tmp_path, kind):
    data = derive(Path(os.environ["MCSC_HIPPOCAMPUS"]), tmp_path / "data", **KINDS[kind])
    options = {"num_labeled": 10, "num_test": 4, "memory_gb": 2, "configuration": "2d", "epoch_length": 60}
    check_road(data, tmp_path / "run", **options)
    (validation,) = csv.DictReader((tmp_path / "run" / "validation.csv").open())
    assert float(validation["mean_dice"]) > LEARNT
