from __future__ import annotations

import json

import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.folders import DatasetError
from preprocessing.labelled import labelled_cases, labelled_cases_or_exit
from preprocessing.prepare import prepare
from tests.mcsc_bundle.images import blobs, save
from tests.plans import make_plan


@pytest.fixture
def dataset(tmp_path):
    """Cases a, b with labels 0, 1, 2, and c without."""
    folder = tmp_path / "data"
    for case in "abc":
        save(blobs((12, 18, 18)).astype("float32") + 1, folder / "images" / f"{case}.nii.gz")
        if case != "c":
            save(blobs((12, 18, 18)), folder / "labels" / f"{case}.nii.gz")
    return folder


def test_all_labelled_cases_or_those_a_training_kept_out(dataset, tmp_path):
    assert [item["case"] for item in labelled_cases(str(dataset))] == ["a", "b"]
    (tmp_path / "splits.json").write_text(json.dumps({"test": ["b"]}))
    (item,) = labelled_cases(str(dataset), str(tmp_path))
    assert item["case"] == "b" and item["label"].endswith("labels/b.nii.gz") and len(item["image"]) == 1
    (tmp_path / "splits.json").write_text(json.dumps({"test": []}))
    with pytest.raises(DatasetError, match="kept cases of"):
        labelled_cases(str(dataset), str(tmp_path))
    (tmp_path / "splits.json").write_text("{")
    with pytest.raises(SystemExit, match=r"error: .*splits\.json is not valid JSON"):
        labelled_cases_or_exit(str(dataset), str(tmp_path))


def test_training_takes_over_a_plan_that_fits_and_refuses_one_that_does_not(dataset, tmp_path):
    make_plan("3d").save(tmp_path / "plan.json")
    run = tmp_path / "run"
    prepared = prepare(str(dataset), str(run), plan_from=str(tmp_path / "plan.json"), workers=1)
    assert prepared.plan == make_plan("3d") and (run / "plan.json").exists()
    again = prepare(str(dataset), str(run), plan_from=str(tmp_path / "plan.json"), workers=1)
    assert again.plan == prepared.plan
    make_plan("3d", labels={"background": 0, "left": 1}).save(tmp_path / "other.json")
    with pytest.raises(PlanError, match=r"a plan for labels .*Plan anew: leave --plan_from out"):
        prepare(str(dataset), str(tmp_path / "run2"), plan_from=str(tmp_path / "other.json"), workers=1)
    make_plan("3d", channel_names=("T1", "T2")).save(tmp_path / "other.json")
    with pytest.raises(PlanError, match="a plan for channels"):
        prepare(str(dataset), str(tmp_path / "run3"), plan_from=str(tmp_path / "other.json"), workers=1)
    make_plan("3d", regions={"left": (1, 2), "right": (2,)}).save(tmp_path / "other.json")
    with pytest.raises(PlanError, match="a plan for regions"):
        prepare(str(dataset), str(tmp_path / "run4"), plan_from=str(tmp_path / "other.json"), workers=1)


def test_a_plan_from_elsewhere_goes_with_no_wish_for_another(dataset, tmp_path):
    make_plan("3d").save(tmp_path / "plan.json")
    for wish, words in (({"configuration": "2d"}, "--configuration"), ({"preset": "resenc_m"}, "--preset")):
        with pytest.raises(PlanError, match=f"expected --plan_from without {words}"):
            prepare(str(dataset), str(tmp_path / "run"), plan_from=str(tmp_path / "plan.json"), workers=1, **wish)


def test_a_training_that_has_begun_is_not_gone_on_with_under_another_configuration(dataset, tmp_path):
    run = tmp_path / "run"
    prepared = prepare(str(dataset), str(run), workers=1, device="cpu")
    (run / "models").mkdir()
    (run / "models" / "checkpoint.pt").touch()
    assert prepared.plan.configuration == "3d_fullres"
    assert prepare(str(dataset), str(run), workers=1, device="cpu", memory_gb=3).plan == prepared.plan
    for wish in ({"configuration": "2d"}, {"preset": "resenc_l"}):
        with pytest.raises(PlanError, match="Leave it out to go on, or choose another --output_dir"):
            prepare(str(dataset), str(run), workers=1, device="cpu", **wish)


def test_where_no_labelled_case_is_left_the_reasons_are_kept(dataset, tmp_path):
    for case in "ab":
        (dataset / "labels" / f"{case}.nii.gz").write_bytes(b"no image")
    (dataset / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "left": 1, "right": 2}, "channel_names": {"0": "MRI"}})
    )
    with pytest.raises(DatasetError, match="a labelled case that can be used, received none"):
        prepare(str(dataset), str(tmp_path / "run"), workers=1)
    assert set(json.loads((tmp_path / "run" / "rejected.json").read_text())) == {"a", "b"}
