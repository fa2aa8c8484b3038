"""A plan comes back as it was saved, and an impossible one is refused with what would be possible."""

import json

import pytest

from mcsc_bundle.plan import ChannelNormalization, Fingerprint, Plan, PlanError
from tests.plans import KINDS, make_plan


@pytest.mark.parametrize("kind", KINDS)
def test_saved_plan_comes_back_equal(tmp_path, kind):
    plan = make_plan(kind, why={"patch_size": "fits"})
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_a_plan_with_regions_comes_back_equal_and_stores_its_cases_apart(tmp_path):
    plan = make_plan("3d", regions={"left": (1, 3), "right": (2,)}, ignore_value=4)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    keys = {p.data_key for p in (plan, plan.replace(regions={}), plan.replace(ignore_value=None), make_plan("3d"))}
    assert len(keys) == 4


def test_fingerprint_comes_back_equal(tmp_path):
    from tests.preprocessing.fingerprints import make_fingerprint

    fingerprint = make_fingerprint((1, 1, 5), (9, 9, 9), cases=2)
    fingerprint.save(tmp_path / "f.json")
    assert Fingerprint.load(tmp_path / "f.json") == fingerprint


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("3d", {"patch_size": (8, 18, 16)}, r"'patch_size'.*multiple of 4.*received 18.*Possible: 16 or 20"),
        ("3d", {"patch_size": (8, 16)}, r"'patch_size': expected 3 entries"),
        ("3d", {"spacing_mm": (1.0, 0.0, 1.0)}, r"'spacing_mm': expected a positive number of mm on axis 1"),
        ("3d", {"spacing_mm": (None, 1.0, 1.0)}, "null is possible on slice_axis only"),
        ("3d", {"spatial_dims": 2}, "slice_axis"),
        ("slicewise", {"slice_axis": None}, "expected 0, 1 or 2 in a slice-wise plan"),
        ("3d", {"labels": {"organ": 1, "background": 0}}, "background = 0 as the first entry"),
        ("3d", {"labels": {"background": 0, "a": 1, "b": 1}}, "distinct values"),
        (
            "3d",
            {"regions": {"left": [1]}},
            r"'regions': expected values for each of \['left', 'right'\], in this order",
        ),
        ("3d", {"regions": {"left": [1, 2], "right": [1]}}, r"hold those of 'labels', \[1, 2\], each in none"),
        ("3d", {"regions": {"left": [1, 3], "right": [2]}, "ignore_value": 3}, "above the highest label, 3"),
        ("3d", {"ignore_value": 2}, "'ignore_value': expected null or an integer above the highest label, 2"),
        ("3d", {"normalization": (ChannelNormalization("MRI", "median"),)}, "a scheme of"),
        ("3d", {"normalization": (ChannelNormalization("CT", "ct"),)}, "lower, upper, mean and std"),
        ("3d", {"batch_labeled": 0}, "'batch_labeled': expected at least 1"),
        ("3d", {"mirror_axes": (3,)}, "axes below 3"),
        ("3d", {"inference_overlap": 1.0}, r"fraction in \[0, 1\)"),
        (
            "3d",
            {"largest_component": (("left", "heart"),)},
            r"classes out of left, right, such as \[\[\"left\"\]\], received \['heart'\]",
        ),
        ("3d", {"largest_component": ((),)}, r"received \(\(\),\)\. \[\] keeps all components"),
    ],
)
def test_impossible_plans_are_refused(kind, change, message):
    with pytest.raises(PlanError, match=message):
        make_plan(kind, **change)


def test_heads_must_divide_the_width():
    import dataclasses

    plan = make_plan("3d")
    with pytest.raises(PlanError, match=r"divisor of 8 in stage 0, received 3. Possible: \[1, 2, 4, 8\]"):
        plan.replace(transformer=dataclasses.replace(plan.transformer, heads=(3, 4)))


def test_unknown_entries_are_named(tmp_path):
    make_plan().save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**content, "pach_size": [1]}))
    with pytest.raises(PlanError, match=r"unknown .*pach_size"):
        Plan.load(tmp_path / "plan.json")


def test_broken_json_and_missing_file_say_so(tmp_path):
    with pytest.raises(PlanError, match="does not exist"):
        Plan.load(tmp_path / "plan.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PlanError, match="folder cannot be read"):
        Plan.load(tmp_path / "folder")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="not valid JSON"):
        Plan.load(tmp_path / "plan.json")


def test_a_missing_plan_is_sought_in_the_folders_below_and_in_the_training(tmp_path):
    with pytest.raises(PlanError, match="Plan the data set first"):
        Plan.load(tmp_path / "plan.json")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "trained.json").write_text("{}")
    with pytest.raises(PlanError, match=r"Put it back: models/trained\.json"):
        Plan.load(tmp_path / "plan.json")
    for name in ("3d_fullres", "2d"):
        make_plan("3d").save(tmp_path / name / "plan.json")
    with pytest.raises(PlanError, match="several runs, give one of them: 2d, 3d_fullres"):
        Plan.load(tmp_path / "plan.json")


def test_data_key_follows_what_decides_the_arrays():
    plan = make_plan("3d")
    assert plan.data_key == plan.replace(batch_labeled=5, memory_gb=1.0).data_key
    assert plan.data_key != plan.replace(spacing_mm=(1.0, 1.0, 2.0)).data_key


def test_image_patch_has_one_voxel_along_the_slices():
    plan = make_plan("slicewise")
    assert plan.image_patch_size == (16, 24, 1) and plan.network_axes == (0, 1)


def test_strides_accumulate():
    plan = make_plan("anisotropic")
    assert plan.cnn.cumulative_strides == ((1, 1, 1), (1, 2, 2), (2, 4, 4)) and plan.cnn.divisor == (2, 4, 4)
    assert plan.transformer.cumulative_strides == ((1, 2, 2), (1, 4, 4))


def test_cases_stored_for_labels_in_another_order_are_others():
    """Stored class indices are positions in the order of the labels."""
    plan = make_plan("3d", labels={"background": 0, "left": 1, "right": 2})
    turned = plan.replace(labels={"background": 0, "right": 2, "left": 1})
    assert plan.label_values != turned.label_values and plan.data_key != turned.data_key
    assert plan.data_key == plan.replace(labels={"background": 0, "left": 1, "right": 2}).data_key
