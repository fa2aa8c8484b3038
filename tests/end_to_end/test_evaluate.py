"""``evaluate``: scores of cases that were kept out, as inference makes their masks, and of no others."""

import csv

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import label as components

from mcsc_bundle.plan import Plan
from mcsc_bundle.score_record import ScoreRecord, read_record
from tests.end_to_end.road import SHORT, train, workflow


def test_evaluate_scores_the_held_out_cases(dataset, tmp_path):
    options = {"num_labeled": 1, "num_test": 1}
    train(dataset, tmp_path, max_epochs=1, **options)
    workflow(
        ["train.yaml", "evaluate.yaml"], dataset_dir=str(dataset), output_dir=str(tmp_path), **{**SHORT, **options}
    ).run()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert {row["class_name"] for row in rows} == {"RV", "MYO", "LV"} and (tmp_path / "report.html").exists()
    assert read_record(tmp_path) == ScoreRecord.of_inference(Plan.load(tmp_path / "plan.json"))
    raw = {path: np.asarray(nib.load(path).dataobj) for path in (tmp_path / "masks").glob("*.nii.gz")}
    edited = Plan.load(tmp_path / "plan.json").replace(
        largest_component=(("RV", "MYO", "LV"),)
    )  # two patients decide nothing
    edited.save(tmp_path / "plan.json")
    workflow(
        ["train.yaml", "evaluate.yaml"], dataset_dir=str(dataset), output_dir=str(tmp_path), **{**SHORT, **options}
    ).run()
    for path, before in raw.items():
        cleaned = np.asarray(nib.load(path).dataobj)
        assert components(before > 0, np.ones((3, 3, 3)))[1] > 1 == components(cleaned > 0, np.ones((3, 3, 3)))[1]
        assert np.array_equal(cleaned[cleaned > 0], before[cleaned > 0])


@pytest.mark.parametrize(
    ("options", "message"), [({}, "were kept out of the training, received none"), ({"fold": 0}, "1 of 1 that it was")]
)
def test_evaluate_refuses_what_is_no_test(dataset, run, options, message):
    """The run trained on all of its three labels, as there are too few patients to validate."""
    with pytest.raises(SystemExit, match=message):
        workflow(
            ["train.yaml", "evaluate.yaml"], dataset_dir=str(dataset), output_dir=str(run), **{**SHORT, **options}
        ).run()
