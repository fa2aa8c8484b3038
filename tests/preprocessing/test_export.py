"""Data sets in nnU-Net's layout: nothing lost, and what nnU-Net asks for."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from preprocessing.dataset import read_dataset
from preprocessing.export import export
from preprocessing.folders import DatasetError
from tests.preprocessing.scans import SHAPE, affine, decathlon, declare, mask, voxels, write


def declared(folder):
    return json.loads((folder / "dataset.json").read_text())


def test_labelled_and_unlabelled_cases_find_their_folders(tmp_path) -> None:
    folder, rejected = export(decathlon(tmp_path / "data", ["a", "b"], ("u",)), tmp_path / "raw", 501)
    assert (folder.name, rejected) == ("Dataset501_Tiny", {})
    assert {path.name for path in (folder / "imagesTr").iterdir()} == {"a_0000.nii.gz", "b_0000.nii.gz"}
    assert {path.name for path in (folder / "labelsTr").iterdir()} == {"a.nii.gz", "b.nii.gz"}
    assert {path.name for path in (folder / "imagesUn").iterdir()} == {"u_0000.nii.gz"}
    expected = {"labels": {"background": 0, "left": 1, "right": 2}, "numTraining": 2, "file_ending": ".nii.gz"}
    assert expected.items() <= declared(folder).items()
    assert declared(folder)["channel_names"] == {"0": "MRI"}


def test_what_is_exported_reads_back_as_the_same_data_set(tmp_path) -> None:
    before = read_dataset(decathlon(tmp_path / "data", ["p1_ED", "p1_ES", "b"], ("u",)))
    after = read_dataset(export(before.root, tmp_path / "raw", 7)[0])
    assert (after.name, after.channel_names, after.labels) == (before.name, before.channel_names, before.labels)
    for one, other in zip(before.cases, after.cases, strict=True):
        assert (one.name, one.group, one.label is None) == (other.name, other.group, other.label is None)
        assert one.images[0].read_bytes() == other.images[0].read_bytes()


def test_labels_are_renumbered_on_exactly_the_images_grid(tmp_path) -> None:
    data = decathlon(tmp_path / "data", ["a"], labels={"0": "background", "7": "left", "2": "right"})
    label = np.where(mask() == 1, 7, mask()).astype(np.int16)
    write(data / "labelsTr" / "a.nii.gz", label, affine(origin=(1e-3, 0, 0)))  # a rounded header
    folder, _ = export(data, tmp_path / "raw", 1)
    assert declared(folder)["labels"] == {"background": 0, "right": 1, "left": 2}
    written = nib.load(folder / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.where(label == 7, 2, np.where(label == 2, 1, 0)))
    np.testing.assert_array_equal(written.affine, nib.load(data / "imagesTr" / "a.nii.gz").affine)


def test_channels_of_one_file_become_files(tmp_path) -> None:
    data = declare(
        tmp_path / "data", name="Two", channel_names={"0": "T2", "1": "ADC"}, labels={"background": 0, "x": 1}
    )
    both = np.stack([voxels(0), voxels(1)], axis=-1)
    write(data / "imagesTr" / "a.nii.gz", both)
    write(data / "labelsTr" / "a.nii.gz", (mask() == 1).astype(np.uint8))
    folder, _ = export(data, tmp_path / "raw", 1)
    for index in (0, 1):
        image = nib.load(folder / "imagesTr" / f"a_{index:04d}.nii.gz")
        np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), both[..., index])
        np.testing.assert_array_equal(image.affine, affine())


def test_other_formats_become_nifti_in_the_same_place(tmp_path) -> None:
    data = declare(tmp_path / "data", channel_names={"0": "MRI"}, labels={"background": 0, "left": 1, "right": 2})
    for folder, array in (("imagesTr", voxels(0)), ("labelsTr", mask())):
        image = sitk.GetImageFromArray(array.T)
        image.SetSpacing((1.0, 2.0, 3.0))
        (data / folder).mkdir()
        sitk.WriteImage(image, str(data / folder / "a.mha"))
    folder, _ = export(data, tmp_path / "raw", 1)
    written = nib.load(folder / "imagesTr" / "a_0000.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), voxels(0))
    np.testing.assert_allclose(written.affine, np.diag([-1, -2, 3, 1]))


def test_hidden_labels_are_not_exported_and_test_cases_apart(tmp_path) -> None:
    data = decathlon(tmp_path / "data", list("abcdefgh"))
    folder, _ = export(data, tmp_path / "raw", 1, num_labeled=2, num_test=1)
    count = {part.name: len(list(part.iterdir())) for part in folder.iterdir() if part.is_dir()}
    assert count == {"imagesTr": 2, "labelsTr": 2, "imagesUn": 5, "imagesTs": 1, "labelsTs": 1}
    back = read_dataset(folder).cases
    assert {case.name for case in back} == {
        path.name.removesuffix("_0000.nii.gz") for path in folder.glob("images[TU][rn]/*")
    }


def test_a_part_of_a_data_set_reads_back(tmp_path) -> None:
    (tmp_path / "split.json").write_text(json.dumps({"labeled": ["b", "c"], "unlabeled": [], "test": []}))
    data = decathlon(tmp_path / "data", list("abcd"))
    folder, _ = export(data, tmp_path / "raw", 1, split_file=tmp_path / "split.json")
    assert [case.name for case in read_dataset(folder).cases] == ["b", "c"]


def test_folds_part_no_patient(tmp_path) -> None:
    names = [f"p{patient}_{phase}" for patient in range(6) for phase in ("ED", "ES")]
    folder, _ = export(decathlon(tmp_path / "data", names), tmp_path / "raw", 1)
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        assert sorted([*fold["train"], *fold["val"]]) == sorted(names)
        assert not {name[:2] for name in fold["train"]} & {name[:2] for name in fold["val"]}


def test_a_bad_case_is_left_out_by_name(tmp_path) -> None:
    data = decathlon(tmp_path / "data", ["a", "b", "c"])
    write(data / "imagesTr" / "b.nii.gz", np.full(SHAPE, np.nan, np.float32))
    folder, rejected = export(data, tmp_path / "raw", 1)
    assert list(rejected) == ["b"] and "b.nii.gz" in rejected["b"]
    assert declared(folder)["numTraining"] == 2
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 2  # none of which validates on nothing
    assert all(sorted((fold["train"], fold["val"])) == [["a"], ["c"]] for fold in folds)


def test_of_one_image_under_two_names_one_is_exported(tmp_path) -> None:
    data = decathlon(tmp_path / "data", ["a", "b", "c"])
    write(data / "imagesTr" / "c.nii.gz", voxels(0))  # as that of a
    folder, rejected = export(data, tmp_path / "raw", 1)
    assert list(rejected) == ["c"] and "as labelled case a" in rejected["c"]
    assert not list(folder.rglob("c*.nii.gz")) and declared(folder)["numTraining"] == 2


def test_what_nnunet_cannot_open_is_left_out(tmp_path) -> None:
    data = decathlon(tmp_path / "data", ["a", "b"])
    sheared = affine()
    sheared[1, 2] = 1.0
    write(data / "imagesTr" / "b.nii.gz", voxels(1), sheared)
    write(data / "labelsTr" / "b.nii.gz", mask(), sheared)
    folder, rejected = export(data, tmp_path / "raw", 1)
    assert list(rejected) == ["b"] and "must be resampled first" in rejected["b"]
    assert not list(folder.rglob("b*.nii.gz"))


def test_source_and_licence_go_along(tmp_path) -> None:
    data = decathlon(tmp_path / "data", ["a"])
    before = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**before, "reference": "a clinic", "Licence": "CC-BY 4.0"}))
    folder, _ = export(data, tmp_path / "raw", 1)
    assert {"reference": "a clinic", "Licence": "CC-BY 4.0"}.items() <= declared(folder).items()


def test_a_taken_number_is_refused_and_nothing_half_written_stays(tmp_path) -> None:
    data, raw = decathlon(tmp_path / "data", ["a"]), tmp_path / "raw"
    export(data, raw, 5)
    with pytest.raises(DatasetError, match=r"dataset_id=5, which is that of .*Dataset005_Tiny"):
        export(data, raw, 5)
    (data / "imagesTr" / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="no labelled case can be exported"):
        export(data, raw, 6)
    assert [path.name for path in raw.iterdir()] == ["Dataset005_Tiny"]


@pytest.mark.parametrize("number", [0, 1000, "5"])
def test_an_impossible_number_is_refused(tmp_path, number) -> None:
    with pytest.raises(DatasetError, match="a number from 1 to 999"):
        export(decathlon(tmp_path / "data", ["a"]), tmp_path / "raw", number)


def test_the_ignore_label_comes_last_and_reads_back(tmp_path) -> None:
    labels = {"background": 0, "right": 2, "left": 7, "ignore": 9}
    data = decathlon(tmp_path / "data", ["a"], labels=labels)
    label = np.where(mask() == 1, 7, mask())
    label[1:3] = 9
    write(data / "labelsTr" / "a.nii.gz", label.astype(np.uint8))
    folder, rejected = export(data, tmp_path / "raw", 1)
    assert rejected == {} and declared(folder)["labels"] == {"background": 0, "right": 1, "left": 2, "ignore": 3}
    written = np.asarray(nib.load(folder / "labelsTr" / "a.nii.gz").dataobj)
    assert (written[1:3] == 3).all() and (written[0, 0] == 2).all() and (written[-1] == 1).all()
    assert read_dataset(folder).ignore_value == 3


def test_regions_are_renumbered_and_read_back(tmp_path) -> None:
    labels = {"background": 0, "whole": [2, 7], "core": [2], "ignore": 9}
    data = decathlon(tmp_path / "data", ["a"], labels=labels, regions_class_order=[7, 2])
    label = np.where(mask() == 1, 7, mask())
    label[1:3] = 9
    write(data / "labelsTr" / "a.nii.gz", label.astype(np.uint8))
    folder, rejected = export(data, tmp_path / "raw", 1)
    assert rejected == {} and declared(folder)["regions_class_order"] == [2, 1]
    assert declared(folder)["labels"] == {"background": 0, "whole": [1, 2], "core": [1], "ignore": 3}
    written = np.asarray(nib.load(folder / "labelsTr" / "a.nii.gz").dataobj)
    assert (written[1:3] == 3).all() and (written[0, 0] == 2).all() and (written[-1] == 1).all()
    assert read_dataset(folder).regions == {"whole": (1, 2), "core": (1,)}
