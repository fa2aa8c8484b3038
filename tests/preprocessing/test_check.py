"""What ``check`` says of data sets and runs."""

from __future__ import annotations

import numpy as np
import pytest

from mcsc_bundle.labels import STORED_IGNORED
from mcsc_bundle.plan import save_json
from mcsc_bundle.store import CaseStore
from mcsc_bundle.trained import save_trained
from preprocessing.__main__ import main
from preprocessing.check import check, table
from tests.plans import make_plan
from tests.preprocessing.scans import SHAPE, decathlon, write

PLAN = make_plan("3d")


def make_run(folder, stored=("a", "b"), rejected=None):
    """A run of cases a and b (labelled), u (unlabelled)."""
    PLAN.save(folder / "plan.json")
    save_json(folder / "splits.json", {"labeled": ["a", "b"], "unlabeled": ["u"], "test": ["t"]})
    save_json(folder / "rejected.json", rejected or {})
    store = CaseStore(folder / "preprocessed", PLAN.data_key)
    for name in stored:
        label = np.zeros((8, 8, 8), np.uint8)
        label[0] = 1
        store.write(name, np.ones((1, 8, 8, 8), np.float32), None if name == "u" else label, "hash+hash")
    return store


def problems(folder):
    return {finding.case: finding.problem for finding in check(folder)[0] if finding.problem}


def test_every_case_of_a_data_set_has_a_line(tmp_path) -> None:
    decathlon(tmp_path, ["a", "b"], ("u",))
    text = table(*check(tmp_path))
    assert "a  labelled    6 x 5 x 4 voxels of 1 x 2 x 3 mm  ok" in text
    assert "u  unlabelled" in text
    assert "3 cases: 3 can be used, 0 rejected." in text


def test_bad_cases_are_rejected_by_name(tmp_path) -> None:
    decathlon(tmp_path, ["a", "b", "c"])
    write(tmp_path / "imagesTr" / "b.nii.gz", np.full(SHAPE, np.nan, np.float32))
    (tmp_path / "labelsTr" / "c.nii.gz").write_bytes(b"no label")
    found = problems(tmp_path)
    assert list(found) == ["b", "c"]
    assert "b.nii.gz: expected finite intensities" in found["b"]


def test_a_data_set_of_bad_cases_alone_is_still_told(tmp_path) -> None:
    decathlon(tmp_path, ["a"])
    write(tmp_path / "imagesTr" / "a.nii.gz", np.full(SHAPE, np.nan, np.float32))
    assert list(problems(tmp_path)) == ["a"]


def test_only_background_is_a_remark(tmp_path) -> None:
    decathlon(tmp_path, ["a", "b"])
    write(tmp_path / "labelsTr" / "b.nii.gz", np.zeros(SHAPE, np.uint8))
    assert {f.case: f.remarks for f in check(tmp_path)[0]} == {"a": (), "b": ("only background",)}


def test_a_whole_run_is_found_good(tmp_path) -> None:
    make_run(tmp_path, stored=("a", "b", "u"))
    findings, notes = check(tmp_path)
    assert ([f.case for f in findings], notes) == (["a", "b", "u"], ())
    assert not any(finding.problem for finding in findings)


def test_what_a_run_lacks_or_rejected_is_told(tmp_path) -> None:
    make_run(tmp_path, stored=("a",), rejected={"b": "b.nii.gz: no image."})
    assert problems(tmp_path) == {"b": "b.nii.gz: no image."}
    assert "1 case not stored for this plan, e.g. u" in check(tmp_path)[1][0]


def test_a_fold_is_checked_where_its_cross_validation_keeps_the_cases(tmp_path) -> None:
    store = make_run(tmp_path / "fold_0", stored=("a", "b"))
    store.folder.parent.rename(tmp_path / "preprocessed")
    save_trained(tmp_path / "fold_0" / "models", PLAN, ["a"])  # b validates, so its patient's scan u is not stored
    split = {"labeled": ["a", "b"], "unlabeled": ["u", "w"], "test": [], "groups": {"b": "B", "u": "B"}}
    save_json(tmp_path / "fold_0" / "splits.json", split)
    findings, notes = check(tmp_path / "fold_0")
    assert [finding.case for finding in findings] == ["a", "b"]
    assert len(notes) == 1 and "1 case not stored for this plan, e.g. w" in notes[0]


def test_where_nothing_could_be_read_nothing_is_well(tmp_path) -> None:
    make_run(tmp_path, stored=())
    with pytest.raises(SystemExit):
        main(["check", str(tmp_path)])


def test_damaged_stored_cases_are_found(tmp_path) -> None:
    store = make_run(tmp_path, stored=("a", "b", "u"))
    damaged = store.folder / "a.image.b2nd"
    damaged.write_bytes(damaged.read_bytes()[:40])
    store.write("u", np.full((1, 4, 4, 4), np.inf, np.float32), None, "other")
    found = problems(tmp_path)
    assert list(found) == ["a", "u"]
    assert "cannot be read" in found["a"] and "expected finite intensities" in found["u"]


@pytest.mark.parametrize(("damage", "code"), [(False, None), (True, 1)])
def test_the_exit_status_tells(tmp_path, capsys, damage, code) -> None:
    decathlon(tmp_path, ["a", "b"])
    if damage:
        (tmp_path / "imagesTr" / "a.nii.gz").write_bytes(b"no image")
    if code is None:
        main(["check", str(tmp_path)])
    else:
        with pytest.raises(SystemExit) as ended:
            main(["check", str(tmp_path)])
        assert ended.value.code == code
    assert f"{1 if damage else 0} rejected" in capsys.readouterr().out


def test_what_is_annotated_is_a_remark(tmp_path) -> None:
    decathlon(tmp_path, ["a"], labels={"background": 0, "left": 1, "right": 2, "ignore": 3})
    write(
        tmp_path / "labelsTr" / "a.nii.gz",
        np.where(np.arange(6)[:, None, None] < 3, 3, np.ones(SHAPE)).astype(np.uint8),
    )
    assert "50% annotated" in table(*check(tmp_path))


def test_stored_ignored_voxels_belong_to_plans_that_know_them(tmp_path) -> None:
    for plan, expected in ((PLAN, "expected 3 classes, received more"), (PLAN.replace(ignore_value=3), None)):
        folder = tmp_path / plan.data_key
        plan.save(folder / "plan.json")
        save_json(folder / "splits.json", {"labeled": ["a"], "unlabeled": [], "test": []})
        label = np.full((8, 8, 8), STORED_IGNORED, np.uint8)
        store = CaseStore(folder / "preprocessed", plan.data_key)
        store.write("a", np.ones((1, 8, 8, 8), np.float32), label, "hash+hash")
        problem = check(folder)[0][0].problem
        assert problem is None if expected is None else expected in problem
