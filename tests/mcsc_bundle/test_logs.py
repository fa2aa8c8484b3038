"""What a training tells: means of an epoch, how its pseudo-labels fare, and how long it still takes."""

import math

import pytest
import torch

from mcsc_bundle.csv_log import loss_terms, read_rows
from mcsc_bundle.logs import Means, Pace
from mcsc_bundle.methods import UAMT
from tests.mcsc_bundle.test_trainer import trainer


def test_the_log_tells_how_pseudo_labels_fare(tmp_path):
    """Means over an epoch beside the loss: the share of voxels that count, and who teaches."""
    trainer(tmp_path, max_epochs=2).run()
    for row in read_rows(tmp_path / "log.csv"):
        shares = [float(row[f"watched_{name}"]) for name in ("confident_foreground", "confident", "cnn_teaches")]
        assert 0 <= shares[0] <= shares[1] <= 1 and 0 <= shares[2] <= 1
        assert float(row["watched_grad_norm"]) > 0
        terms = [float(row[name]) for name in loss_terms(row) if name != "loss"]
        assert sum(terms) == pytest.approx(float(row["loss"]), rel=1e-5)


def test_the_log_tells_of_how_many_voxels_a_teacher_is_certain(tmp_path):
    trainer(tmp_path, method=UAMT, max_epochs=1).run()
    (row,) = read_rows(tmp_path / "log.csv")
    assert 0 <= float(row["watched_certain"]) <= 1


def test_means_leave_out_what_is_not_finite():
    means = Means()
    for value in (1.0, float("nan"), 3.0, float("inf")):
        means.add({"norm": torch.tensor(value), "never": torch.tensor(float("nan")), "count": torch.tensor(2)})
    means.add({"norm": torch.tensor(5.0)})  # names may come and go
    read = means.read()
    assert read["norm"] == 3 and read["count"] == 2 and math.isnan(read["never"])


def test_the_pace_leaves_the_first_step_out():
    """A step of 50 s that compiles, one of 2 s, 8 s to validate, one of 2 s."""
    pace = Pace()
    pace.begin(0.0)
    pace.step(50.0)
    assert pace.text(50.0, 50) == ""
    pace.step(52.0)
    pace.begin(60.0)
    pace.step(62.0)
    assert pace.text(62.0, 50) == "  2.00 s/step, about 5 min 0 s left"
    assert pace.text(62.0, 0) == "  2.00 s/step"
