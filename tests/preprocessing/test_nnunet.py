"""Planning from nnU-Net's own files."""

from __future__ import annotations

import json

import pytest

from mcsc_bundle.plan import Plan, PlanError
from preprocessing.nnunet import plan_from_nnunet, read_nnunet_fingerprint
from preprocessing.verbs import plan

STATISTICS = {
    "mean": 1.0,
    "median": 1.0,
    "std": 2.0,
    "min": 0.0,
    "max": 9.0,
    "percentile_00_5": 0.5,
    "percentile_99_5": 8.0,
}


def write(folder, spacing=(3.0, 1.0, 1.0), shape=(20, 64, 64), cases=4, **declared):
    """The two files."""
    measured = {
        "spacings": [spacing] * cases,
        "shapes_after_crop": [shape] * cases,
        "median_relative_size_after_cropping": 0.5,
        "foreground_intensity_properties_per_channel": {"0": STATISTICS},
    }
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": cases, **declared}
    files = folder / "dataset_fingerprint.json", folder / "dataset.json"
    for path, value in zip(files, (measured, content), strict=True):
        path.write_text(json.dumps(value))
    return files


def test_the_documented_command_gives_nnunets_plan(tmp_path) -> None:
    """Both options mean something else to the config of a training."""
    fingerprint, dataset_json = map(str, write(tmp_path))
    options = {"networks": "cnn", "device": "cuda", "memory_gb": 8}
    plan(str(tmp_path / "plan.json"), dataset_json, fingerprint, **options)
    assert Plan.load(tmp_path / "plan.json") == plan_from_nnunet(fingerprint, dataset_json, **options)


@pytest.mark.parametrize(
    ("spacing", "ours", "axes"),
    [((3, 1, 1), (3, 1, 1), "SAR"), ((1, 3, 1.5), (3, 1, 1.5), "ASR"), ((1, 1.5, 3), (3, 1, 1.5), "RSA")],
)
def test_axes_are_in_the_order_of_nnunets_plans(tmp_path, spacing, ours, axes) -> None:
    plan = plan_from_nnunet(*write(tmp_path, spacing=spacing, shape=(40, 40, 40)))
    assert (plan.spacing_mm, plan.orientation) == (ours, axes)


def test_thick_slices_are_planned_in_3d_as_nnunet_does(tmp_path) -> None:
    assert plan_from_nnunet(*write(tmp_path, spacing=(9, 1, 1))).spatial_dims == 3


def test_single_slices_are_planned_in_2d_as_nnunet_does(tmp_path) -> None:
    plan = plan_from_nnunet(*write(tmp_path, spacing=(9, 1, 1), shape=(1, 64, 64)))
    assert (plan.spatial_dims, plan.slice_axis, plan.spacing_mm) == (2, 0, (None, 1, 1))


def test_a_flat_axis_that_is_not_the_coarsest_stays_3d_as_in_nnunet(tmp_path) -> None:
    plan = plan_from_nnunet(*write(tmp_path, shape=(64, 64, 1)))
    assert plan.patch_size == (64, 64, 1)


def test_the_plan_is_for_a_gpu_unless_asked_otherwise(tmp_path) -> None:
    assert plan_from_nnunet(*write(tmp_path)).cnn.features[0] == 32


def test_statistics_and_kept_ratio_arrive(tmp_path) -> None:
    fingerprint = read_nnunet_fingerprint(*write(tmp_path))
    assert fingerprint.foreground[0].percentile_99_5 == 8
    assert {case.kept_ratio for case in fingerprint.cases} == {0.5}


def test_a_slice_of_999_mm_is_an_image(tmp_path) -> None:
    fingerprint = read_nnunet_fingerprint(*write(tmp_path, spacing=(999, 1, 1), shape=(1, 64, 64)))
    assert (fingerprint.image_dims, fingerprint.cases[0].shape) == (2, (64, 64))


def test_the_number_of_training_cases_is_that_of_dataset_json(tmp_path) -> None:
    options = {"memory_gb": 8, "device": "cuda", "networks": "cnn", "configuration": "2d"}
    few = plan_from_nnunet(*write(tmp_path), **options)
    many = plan_from_nnunet(*write(tmp_path, numTraining=400), **options)
    assert many.batch_labeled > few.batch_labeled


def test_regions_take_their_values_from_their_order(tmp_path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4}
    fingerprint = read_nnunet_fingerprint(*write(tmp_path, labels=labels, regions_class_order=[1, 2]))
    assert fingerprint.labels == {"background": 0, "whole": 1, "core": 2}
    assert fingerprint.regions == {"whole": (1, 2, 3), "core": (2, 3)}
    assert fingerprint.ignore_value == 4  # no class: nnU-Net's networks do not predict it


@pytest.mark.parametrize(
    ("labels", "ignored"),
    [
        ({"liver": 1}, None),
        ({"0": "background", "1": "liver"}, None),
        ({"background": 0, "liver": 1, "Ignore": 2}, 2),
    ],
)
def test_labels_are_read_as_those_of_a_data_set(tmp_path, labels, ignored) -> None:
    fingerprint = read_nnunet_fingerprint(*write(tmp_path, labels=labels))
    assert (fingerprint.labels, fingerprint.ignore_value) == ({"background": 0, "liver": 1}, ignored)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 5, "liver": 1}, "the value 0 for background, received 5"),
        ({"background": 0, "liver": 1, "lesion": 1}, "each label name and value once"),
    ],
)
def test_labels_that_no_data_set_may_have_are_refused(tmp_path, labels, words) -> None:
    with pytest.raises(PlanError, match=f"dataset.json: expected {words}"):
        read_nnunet_fingerprint(*write(tmp_path, labels=labels))


@pytest.mark.parametrize("order", [{"regions_class_order": []}, {}])
def test_regions_without_an_order_are_refused(tmp_path, order) -> None:
    files = write(tmp_path, labels={"background": 0, "whole": [1, 2]}, **order)
    with pytest.raises(PlanError, match='expected "regions_class_order" with one value of each region'):
        read_nnunet_fingerprint(*files)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_file_is_named(tmp_path, missing) -> None:
    files = write(tmp_path)
    files[missing].unlink()
    with pytest.raises(PlanError, match=files[missing].name):
        read_nnunet_fingerprint(*files)


def test_another_json_file_is_refused(tmp_path) -> None:
    fingerprint, dataset = write(tmp_path)
    with pytest.raises(PlanError, match="dataset_fingerprint"):
        read_nnunet_fingerprint(dataset, fingerprint)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spacings": [[3, 1]] * 4}, "three positive numbers .* in 'spacings', received .* for case 0"),
        ({"spacings": [[3, 1, 1]] * 3 + [[3, 0, 1]]}, "received .* for case 3"),
        ({"spacings": [[3, 1, float("nan")]] * 4}, "three positive numbers"),
        ({"shapes_after_crop": [[20, 64, 64]] * 3}, "as many 'shapes_after_crop' as 'spacings', received 3 and 4"),
        ({"foreground_intensity_properties_per_channel": {"0": {}}}, "the numbers mean, median"),
    ],
)
def test_entries_that_cannot_be_are_named_with_file_and_remedy(tmp_path, change, words) -> None:
    fingerprint, dataset = write(tmp_path)
    fingerprint.write_text(json.dumps({**json.loads(fingerprint.read_text()), **change}))
    with pytest.raises(PlanError, match=f"(?s)dataset_fingerprint.json: .*{words}.*extract the fingerprint again"):
        read_nnunet_fingerprint(fingerprint, dataset)


@pytest.mark.parametrize(("entry", "value"), [("labels", None), ("labels", []), ("channel_names", None)])
def test_an_incomplete_dataset_json_is_named(tmp_path, entry, value) -> None:
    with pytest.raises(PlanError, match=f"dataset.json: .*{entry}.* Give nnU-Net's dataset.json"):
        read_nnunet_fingerprint(*write(tmp_path, **{entry: value}))


def test_sides_are_those_of_the_axes_in_nnunets_order(tmp_path):
    """Sagittal spacing coarsest: RSA. Left kidney and right kidney are mirrored along the other two axes alone."""
    files = write(tmp_path, spacing=(1, 1.5, 2.0), shape=(60, 64, 64))
    declared = json.loads(files[1].read_text()) | {"labels": {"background": 0, "left kidney": 1, "right kidney": 2}}
    files[1].write_text(json.dumps(declared))
    plan = plan_from_nnunet(*files)
    assert (plan.orientation, plan.mirror_axes) == ("RSA", (1, 2))
    assert "left kidney and right kidney differ in their side" in plan.why["mirror_axes"]
