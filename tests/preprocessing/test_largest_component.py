"""Classes that are one piece in every labelled case are planned to stay one piece; where the labels say less, nothing is."""

import dataclasses
import re

import pytest

from preprocessing.adopt import adopt_plan
from preprocessing.explain import explain
from preprocessing.largest_component import plan_largest_component
from preprocessing.paper import paper_plan
from preprocessing.planner import make_plan
from tests.preprocessing.fingerprints import make_fingerprint

CLASSES = ("class_1", "class_2")
ALL = (CLASSES, ("class_1",), ("class_2",))


def fingerprint(cases=4, unlabeled=1, shape=(40, 48, 40), classes=3, **changes):
    """A labelled case: both classes of 1000 voxels, in one piece; the first of them changed, by ``changes``."""
    one = make_fingerprint((1, 1, 1), shape, cases=cases, unlabeled=unlabeled, channels=("MRI",), classes=classes)
    names = tuple(one.labels)[1:]
    whole = dict(
        class_voxels=dict.fromkeys(one.labels, 1000), class_largest=dict.fromkeys(names, 1.0), foreground_largest=1.0
    )
    measured = [dataclasses.replace(case, patient=case.case, **whole) if case.labeled else case for case in one.cases]
    measured[unlabeled] = dataclasses.replace(measured[unlabeled], **changes)
    return dataclasses.replace(one, cases=tuple(measured))


def test_what_is_one_piece_in_every_labelled_case_stays_one():
    groups, why = plan_largest_component(fingerprint())
    assert groups == ALL and "3 labelled cases (3 patients)" in why and "where that is not so" not in why


def test_a_single_class_is_no_group_beside_itself():
    assert plan_largest_component(fingerprint(classes=2))[0] == (("class_1",),)


@pytest.mark.parametrize(
    ("changes", "groups", "reason"),
    [
        ({"class_largest": {"class_1": 0.96, "class_2": 1.0}}, ALL, "one piece"),
        ({"class_largest": {"class_1": 0.6, "class_2": 1.0}}, (CLASSES, ("class_2",)), "class_1 is in pieces in 1 .* 60 % of it"),
        ({"class_voxels": {"class_1": 1000, "class_2": 0}}, (CLASSES, ("class_1",)), "class_2 is not in 1 of 3"),
        ({"foreground_largest": 0.5}, ALL[1:], r"class_1 \+ class_2\) is in pieces in 1 of 3 labelled cases .*50 % of a class"),
        ({"class_voxels": {"class_1": 100, "class_2": 1000}}, (CLASSES, ("class_2",)), "class_1 is of very different sizes"),
        ({"ignored_voxels": 5}, (), "ignored voxels .* Masks keep all components"),
        ({"patient": "case_2"}, (), "Labels of 2 patients do not show"),
        ({"class_largest": {}}, (), "not measured"),
    ],
)  # fmt: skip
def test_a_single_labelled_case_can_speak_against_it(changes, groups, reason):
    found, why = plan_largest_component(fingerprint(**changes))
    assert found == groups
    assert re.search(reason, why), why


def test_sizes_are_millimetres_and_unlabelled_cases_do_not_count():
    """A voxel of 10 x 10 x 10 mm and a tenth of a percent of the voxels: the same size."""
    changed = fingerprint(
        cases=5, unlabeled=2, spacing_mm=(10.0, 10.0, 10.0), class_voxels={"class_1": 1, "class_2": 1}
    )
    assert plan_largest_component(changed)[0] == ALL


def test_the_plan_holds_it_says_why_and_takes_it_from_no_other_data_set(tmp_path):
    plan = make_plan(fingerprint(), device="cpu", memory_gb=4)
    assert plan.largest_component == ALL
    page = explain(plan)
    assert "Largest component kept of: class_1 + class_2, then class_1, then class_2" in page and "3 patients" in page
    plan.save(tmp_path / "plan.json")
    here = fingerprint(foreground_largest=0.5)
    adopted = adopt_plan(tmp_path, make_plan(here, device="cpu", memory_gb=4), here)
    assert adopted.largest_component == ALL[1:] and "in pieces" in adopted.why["largest_component"]


def test_the_paper_keeps_every_component():
    plan = make_plan(fingerprint(), device="cpu", memory_gb=4, configuration="2d")
    assert plan.largest_component == ALL and paper_plan(plan).largest_component == ()
