"""A plan taken over from another run keeps its grid and networks and takes this data set's names."""

import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.adopt import adopt_plan
from preprocessing.planner import make_plan
from tests.plans import make_plan as tiny_plan
from tests.preprocessing.fingerprints import make_fingerprint


def test_grid_and_networks_are_theirs_names_and_labels_ours(tmp_path):
    theirs = tiny_plan("3d", dataset_name="Theirs", spacing_mm=(2.0, 2.0, 2.0))
    theirs.save(tmp_path / "plan.json")
    fingerprint = make_fingerprint((1, 1, 1), (40, 48, 40), cases=8, unlabeled=4, channels=("MRI",))
    own = make_plan(fingerprint, device="cpu", memory_gb=4)
    adopted = adopt_plan(tmp_path, own, fingerprint)
    assert (adopted.spacing_mm, adopted.patch_size, adopted.cnn) == (theirs.spacing_mm, theirs.patch_size, theirs.cnn)
    assert (adopted.dataset_name, adopted.labels) == (own.dataset_name, own.labels)
    assert "Theirs" in adopted.why["patch_size"]


def test_another_number_of_channels_is_refused(tmp_path):
    tiny_plan("3d", channel_names=("T1", "T2")).save(tmp_path / "plan.json")
    fingerprint = make_fingerprint((1, 1, 1), (40, 48, 40), cases=8, unlabeled=4, channels=("MRI",))
    with pytest.raises(PlanError, match="expected 2 channels"):
        adopt_plan(tmp_path, make_plan(fingerprint, device="cpu", memory_gb=4), fingerprint)


def test_kinds_of_labels_are_ours(tmp_path):
    tiny_plan("3d", regions={"left": (1, 2), "right": (2,)}, ignore_value=3).save(tmp_path / "plan.json")
    fingerprint = make_fingerprint((1, 1, 1), (40, 48, 40), cases=8, unlabeled=4, channels=("MRI",))
    adopted = adopt_plan(tmp_path, make_plan(fingerprint, device="cpu", memory_gb=4), fingerprint)
    assert adopted.regions == {} and adopted.ignore_value is None
