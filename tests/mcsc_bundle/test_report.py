"""The report: complete with everything there, and without; text from data is escaped."""

import math

import nibabel as nib
import numpy as np
import pytest

from mcsc_bundle.case_metrics import CaseMetric, case_metrics, write_metrics
from mcsc_bundle.plan import save_json
from mcsc_bundle.report import report, write_report
from tests.plans import make_plan


@pytest.fixture
def run(tmp_path):
    make_plan(dataset_name="<b>Hearts</b>", why={"patch_size": "fits < 8 GB"}).save(tmp_path / "plan.json")
    return tmp_path


def test_plan_alone_is_enough_and_is_escaped(run):
    page = write_report(run).read_text()
    assert "&lt;b&gt;Hearts" in page and "fits &lt; 8 GB" in page and "<b>Hearts" not in page
    assert "<h2>Training" not in page


def test_every_piece_appears(run):
    (run / "log.csv").write_text(
        "epoch,iteration,seconds,lr,nonfinite_steps,loss,cross,watched_confident\n"
        "1,5,1,0.1,0,2,1,0.5\n2,10,1,0.1,0,1,0.5,0.9\n"
    )
    (run / "validation.csv").write_text("epoch,iteration,mean_dice,left\n1,5,0.5,0.5\n")
    save_json(run / "fingerprint.json", {"warnings": ["unlabelled scans are <coarser>"]})
    save_json(run / "rejected.json", {"case9": "not finite"})
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[2:5, 2:5, 1] = 1
    (run / "masks").mkdir()
    for path in (run / "image.nii.gz", run / "masks" / "one.nii.gz"):
        nib.save(nib.Nifti1Image(mask, np.diag((1, 1, 5, 1))), path)
    write_metrics(case_metrics(mask, mask, {"background": 0, "left": 1}, (1, 1, 5), "one"), run / "metrics.csv")
    page = write_report(run, {"one": run / "image.nii.gz"}, {"one": run / "masks" / "one.nii.gz"}).read_text()
    for expected in (
        "<h2>Training",
        "<h2>Validation",
        "<h2>Held-out",
        "<h2>Masks",
        "&lt;coarser&gt;",
        "case9: not finite",
    ):
        assert expected in page
    assert page.count("data:image/png") == 5  # losses, watched, validation, Dice, masks
    assert (run / "overlay.png").stat().st_size > 1000


def test_an_empty_run_folder_gives_a_page(tmp_path):
    assert "Nothing was found" in write_report(tmp_path).read_text()


def test_names_from_data_are_escaped_everywhere(run):
    (run / "plan.json").unlink()
    rows = [CaseMetric("<i>case", "<u>organ", 0.5, 0.5, 1.0, 1.0, 4, 4)]
    write_metrics(rows, run / "metrics.csv")
    page = write_report(run).read_text()
    assert "&lt;i&gt;case" in page and "&lt;u&gt;organ" in page and "<i>" not in page and "<u>" not in page


def test_every_case_is_listed_from_the_worst_to_the_best(run):
    dices = {"middle": 0.5, "best": 0.9, "absent": math.nan, "worst": 0.0}
    write_metrics([CaseMetric(case, "left", d, d, 1.0, 1.0, 4, 4) for case, d in dices.items()], run / "metrics.csv")
    page = write_report(run).read_text()
    places = [page.index(f"<td>{case}</td>") for case in ("worst", "middle", "best", "absent")]
    assert places == sorted(places)


def test_a_mask_on_another_grid_is_named_and_the_page_is_written(run, caplog):
    (run / "masks").mkdir()
    nib.save(nib.Nifti1Image(np.ones((8, 8, 4), np.uint8), np.eye(4)), run / "image.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((8, 8, 3), np.uint8), np.eye(4)), run / "masks" / "one.nii.gz")
    assert write_report(run, {"one": run / "image.nii.gz"}).exists()
    assert "case one is not drawn: expected " in caplog.text and "received another. Give" in caplog.text
    assert not (run / "overlay.png").exists()


def test_no_such_folder_is_said_in_words(tmp_path):
    with pytest.raises(SystemExit, match="error: expected a run folder"):
        report(tmp_path / "nowhere")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(SystemExit, match=r"error: .*report\.html: cannot be written"):
        report(tmp_path)


def test_page_loads_nothing_from_elsewhere(run):
    page = write_report(run).read_text()
    assert "http" not in page and "<script" not in page and "<link" not in page
