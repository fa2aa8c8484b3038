"""A plan taken over from another run keeps its grid and networks and takes this data set's names."""

import dataclasses

import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.adopt import adopt_plan, plan_file
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
    own = make_plan(fingerprint, device="cpu", memory_gb=4)
    for source in (tmp_path, tmp_path / "plan.json"):
        with pytest.raises(PlanError, match=r"plan for channels .*MRI.*received .*T1"):
            adopt_plan(source, own, fingerprint)


def test_a_plan_file_is_taken_as_it_stands_unless_its_labels_are_others(tmp_path):
    fingerprint = make_fingerprint((1, 1, 1), (40, 48, 40), cases=8, unlabeled=4, channels=("MRI",))
    own = make_plan(fingerprint, device="cpu", memory_gb=4)
    theirs = tiny_plan("3d", labels={**own.labels, "another": 9})
    theirs.save(tmp_path / "mine.json")
    assert adopt_plan(tmp_path / "mine.json", own, fingerprint) == theirs
    tiny_plan("3d", labels={"background": 0, "another": 9}).save(tmp_path / "mine.json")
    with pytest.raises(PlanError, match=r"plan for labels .*give the run or bundle by its folder"):
        adopt_plan(tmp_path / "mine.json", own, fingerprint)


@pytest.mark.parametrize("source", ["nowhere", "nowhere.json", "."])
def test_a_source_without_a_plan_is_named(tmp_path, source):
    with pytest.raises(PlanError, match="plan_from: expected a run folder, a packed bundle or a plan file"):
        plan_file(tmp_path / source)


def test_kinds_of_labels_are_ours(tmp_path):
    tiny_plan("3d", regions={"left": (1, 2), "right": (2,)}, ignore_value=3).save(tmp_path / "plan.json")
    fingerprint = make_fingerprint((1, 1, 1), (40, 48, 40), cases=8, unlabeled=4, channels=("MRI",))
    adopted = adopt_plan(tmp_path, make_plan(fingerprint, device="cpu", memory_gb=4), fingerprint)
    assert adopted.regions == {} and adopted.ignore_value is None


def test_the_batch_of_a_supervised_run_is_shared_out(tmp_path):
    """Its memory was planned for so many patches, not for as many unlabelled ones on top."""
    fingerprint = make_fingerprint((1, 1, 1), (40, 48, 40), cases=8, unlabeled=4, channels=("MRI",))
    own = make_plan(fingerprint, device="cpu", memory_gb=4)
    for batch, expected in ((19, (10, 9)), (1, (1, 1))):
        tiny_plan("3d", batch_labeled=batch, batch_unlabeled=0).save(tmp_path / "plan.json")
        adopted = adopt_plan(tmp_path, own, fingerprint)
        assert (adopted.batch_labeled, adopted.batch_unlabeled) == expected


@pytest.mark.parametrize("as_file", [False, True])
def test_mirror_axes_that_confuse_the_sides_of_own_labels_are_left_out(tmp_path, as_file):
    plain = make_fingerprint((1, 1, 1), (40, 48, 40), cases=8, unlabeled=4, channels=("MRI",), classes=3)
    theirs = tiny_plan("3d", labels=plain.labels)
    theirs.save(tmp_path / "plan.json")
    source = tmp_path / "plan.json" if as_file else tmp_path
    assert adopt_plan(source, make_plan(plain, 4, "cpu"), plain).mirror_axes == theirs.mirror_axes == (0, 1, 2)
    sided = dataclasses.replace(plain, labels={"background": 0, "left kidney": 1, "right kidney": 2})
    adopted = adopt_plan(source, make_plan(sided, 4, "cpu"), sided)
    assert adopted.mirror_axes == (1, 2)
    assert "left kidney and right kidney differ in their side" in adopted.why["mirror_axes"]
    assert adopted.why["mirror_axes"].endswith(
        "The plan that was taken over mirrors network axes 0 (left-right), 1 (front-back), 2 (head-foot)."
    )
