"""Planning from nnU-Net's own files."""

from __future__ import annotations

import json

import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.nnunet import plan_from_nnunet, read_nnunet_fingerprint

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


def test_axes_keep_the_order_of_the_file(tmp_path) -> None:
    plan = plan_from_nnunet(*write(tmp_path), memory_gb=8, device="cuda", networks="cnn")
    assert plan.spacing_mm == (3, 1, 1)
    assert plan.orientation == "SAR"


def test_statistics_and_kept_ratio_arrive(tmp_path) -> None:
    fingerprint = read_nnunet_fingerprint(*write(tmp_path))
    assert fingerprint.foreground[0].percentile_99_5 == 8
    assert {case.kept_ratio for case in fingerprint.cases} == {0.5}


def test_a_slice_of_999_mm_is_an_image(tmp_path) -> None:
    fingerprint = read_nnunet_fingerprint(*write(tmp_path, spacing=(999, 1, 1), shape=(1, 64, 64)))
    assert (fingerprint.image_dims, fingerprint.cases[0].shape) == (2, (64, 64))


def test_the_number_of_training_cases_is_that_of_dataset_json(tmp_path) -> None:
    options = {"memory_gb": 8, "device": "cuda", "networks": "cnn", "dimensions": 2}
    few = plan_from_nnunet(*write(tmp_path), **options)
    many = plan_from_nnunet(*write(tmp_path, numTraining=400), **options)
    assert many.batch_labeled > few.batch_labeled


def test_regions_take_their_values_from_their_order(tmp_path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4}
    fingerprint = read_nnunet_fingerprint(*write(tmp_path, labels=labels, regions_class_order=[1, 2]))
    assert fingerprint.labels == {"background": 0, "whole": 1, "core": 2, "ignore": 4}


def test_regions_without_an_order_are_refused(tmp_path) -> None:
    files = write(tmp_path, labels={"background": 0, "whole": [1, 2]}, regions_class_order=[])
    with pytest.raises(PlanError, match="one value in 'regions_class_order' per region"):
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
