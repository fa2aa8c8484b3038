"""The report: complete with everything there, and without; text from data is escaped."""

import nibabel as nib
import numpy as np
import pytest

from mcsc_bundle.metrics import case_metrics, write_metrics
from mcsc_bundle.plan import save_json
from mcsc_bundle.report import overlay_figure, write_report
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
        "epoch,iteration,seconds,lr,nonfinite_steps,loss,cross\n1,5,1,0.1,0,2,1\n2,10,1,0.1,0,1,0.5\n"
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
    assert page.count("data:image/png") == 6 and (run / "overlay.png").stat().st_size > 1000


def test_overlay_shows_the_slice_with_most_foreground_in_true_proportion():
    image, mask = np.random.default_rng(0).random((10, 20, 3)), np.zeros((10, 20, 3), int)
    mask[2:5, 2:5, 2] = 1
    image[:, :, 2] = np.arange(200).reshape(10, 20)
    axes = overlay_figure(image, mask, {"organ": 1}, (2.0, 1.0, 9.0)).axes[0]
    assert np.array_equal(axes.images[0].get_array(), image[:, :, 2].T)
    assert axes.get_aspect() == 0.5
