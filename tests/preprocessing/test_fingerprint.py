"""Laws of a fingerprint: hidden labels do not exist, workers do not matter, a bad case does not end the run."""

import re
import shutil

import numpy as np
import pytest

from mcsc_bundle.plan import Fingerprint
from preprocessing.dataset import DatasetError, read_dataset
from preprocessing.fingerprint import measure
from preprocessing.split import make_split
from tests.preprocessing.scans import SHAPE, affine, decathlon, mask, voxels, write

NAMES = [f"case{letter}" for letter in "abcdefgh"]


def fingerprint_of(folder, workers=1, **arguments):
    dataset = read_dataset(folder)
    return measure(dataset, make_split(dataset, **arguments), workers)


def image_of(folder, name):
    return folder / "imagesTr" / f"{name}.nii.gz"


def label_of(folder, name):
    return folder / "labelsTr" / f"{name}.nii.gz"


def test_training_cases_are_measured_and_test_cases_are_not(tmp_path):
    split = make_split(dataset := read_dataset(decathlon(tmp_path, NAMES, ("u",))), 3)
    fingerprint, rejected = measure(dataset, split)
    assert {case.case for case in fingerprint.labeled} == set(split.labeled)
    assert {case.case for case in fingerprint.unlabeled} == set(split.unlabeled) >= {"u"}
    assert len(split.test) == 2 and rejected == {}
    assert fingerprint.foreground[0].voxels == 3 * np.count_nonzero(mask())


@pytest.mark.parametrize("damage", ["noise", "garbage"])
def test_hidden_labels_do_not_exist(tmp_path, damage):
    decathlon(tmp_path, NAMES)
    before = fingerprint_of(tmp_path, num_labeled=2)
    for name in make_split(read_dataset(tmp_path), 2).unlabeled:
        if damage == "noise":
            write(label_of(tmp_path, name), np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.uint8))
        else:
            label_of(tmp_path, name).write_bytes(b"no label map")
    assert fingerprint_of(tmp_path, num_labeled=2) == before


def test_hidden_labels_of_a_bare_folder_name_no_class(tmp_path):
    decathlon(tmp_path, NAMES)
    (tmp_path / "dataset.json").unlink()
    for name in make_split(read_dataset(tmp_path), 2).unlabeled:
        write(label_of(tmp_path, name), np.full(SHAPE, 77, np.uint8))
    fingerprint, _ = fingerprint_of(tmp_path, num_labeled=2)
    assert fingerprint.labels == {"background": 0, "class_1": 1, "class_2": 2}


def test_stray_values_of_a_bare_folder_are_told(tmp_path, caplog):
    decathlon(tmp_path, NAMES[:4])
    (tmp_path / "dataset.json").unlink()
    for seed, name in enumerate(NAMES[:4]):
        write(image_of(tmp_path, name), voxels(seed, (20, 20, 20)))
        write(label_of(tmp_path, name), mask((20, 20, 20)))
    label = mask((20, 20, 20)).astype(np.int16)
    label[0, 1, 0] = 254
    label[0, 2] = -1
    write(label_of(tmp_path, NAMES[0]), label)
    fingerprint, _ = fingerprint_of(tmp_path)
    assert "class_254" in fingerprint.labels
    assert "the value 254 is a class, too, with 1 voxel in 1 of 4 label files" in caplog.text
    assert "the value -1 is a class, too, with 20 voxels in 1 of 4 label files" in caplog.text
    assert "the value 1 is" not in caplog.text and "the value 2 is" not in caplog.text


def test_any_number_of_workers_gives_the_same(tmp_path):
    decathlon(tmp_path, NAMES[:4])
    image_of(tmp_path, "caseb").write_bytes(b"broken")
    alone, helped = (fingerprint_of(tmp_path, workers) for workers in (1, 2))
    assert alone == helped and list(alone[1]) == ["caseb"]


def test_saved_fingerprint_reads_back(tmp_path):
    fingerprint, _ = fingerprint_of(decathlon(tmp_path, NAMES[:2]))
    fingerprint.save(tmp_path / "fingerprint.json")
    assert Fingerprint.load(tmp_path / "fingerprint.json") == fingerprint


def test_bad_cases_are_set_aside_with_the_reason_and_the_rest_goes_on(tmp_path, caplog):
    decathlon(tmp_path, NAMES)
    image_of(tmp_path, "casea").write_bytes(image_of(tmp_path, "casea").read_bytes()[:100])
    image_of(tmp_path, "caseb").unlink()
    write(label_of(tmp_path, "casec"), mask() + 5)
    write(image_of(tmp_path, "cased"), voxels(3, (6, 5)))
    fingerprint, rejected = fingerprint_of(tmp_path)
    assert [case.case for case in fingerprint.cases] == NAMES[4:]
    assert list(rejected) == NAMES[:4]
    assert "casea.nii.gz: cannot be read" in rejected["casea"]
    assert "caseb.nii.gz: expected an image file" in rejected["caseb"]
    assert "expected the declared label values" in rejected["casec"]
    assert "expected the image's shape" in rejected["cased"]
    assert "Set aside casea: " in caplog.text


def test_an_image_of_other_dimensions_is_set_aside(tmp_path):
    write(decathlon(tmp_path, NAMES[:3], ("flat",)) / "imagesTr" / "flat.nii.gz", voxels(9, (6, 5)))
    fingerprint, rejected = fingerprint_of(tmp_path)
    assert fingerprint.image_dims == 3 and "expected a 3-D image" in rejected["flat"]


def test_two_dimensional_set(tmp_path):
    for seed, name in enumerate(("a", "b")):
        write(tmp_path / "images" / f"{name}.nii", voxels(seed, (6, 5)))
        write(tmp_path / "labels" / f"{name}.nii", mask((6, 5)))
    assert fingerprint_of(tmp_path)[0].image_dims == 2


@pytest.mark.parametrize(("kept", "copy"), [("casea", "casec"), ("casea", "u"), ("caseh", "a_first_by_name")])
def test_of_equal_images_one_stays_and_a_label_counts_more_than_the_name(tmp_path, kept, copy):
    decathlon(tmp_path, NAMES, ("u", "a_first_by_name"))
    shutil.copy(image_of(tmp_path, kept), image_of(tmp_path, copy))
    _, rejected = fingerprint_of(tmp_path)
    assert list(rejected) == [copy] and f"as labelled case {kept}" in rejected[copy]


def test_a_training_case_that_equals_a_test_case_goes(tmp_path):
    split = make_split(read_dataset(decathlon(tmp_path, NAMES)), 3)
    shutil.copy(image_of(tmp_path, split.test[0]), image_of(tmp_path, split.labeled[0]))
    _, rejected = fingerprint_of(tmp_path, num_labeled=3)
    assert list(rejected) == [split.labeled[0]] and f"as test case {split.test[0]}" in rejected[split.labeled[0]]


def test_a_bad_test_case_is_set_aside(tmp_path):
    split = make_split(read_dataset(decathlon(tmp_path, NAMES)), 3)
    label_of(tmp_path, split.test[0]).write_bytes(b"broken")
    assert list(fingerprint_of(tmp_path, num_labeled=3)[1]) == [split.test[0]]


def test_no_usable_labelled_case_ends_with_the_first_reason(tmp_path):
    image_of(decathlon(tmp_path, ["a"], ("u",)), "a").write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"1 case set aside.*a\.nii\.gz: cannot be read"):
        fingerprint_of(tmp_path)


def test_labels_of_background_alone_end_the_run(tmp_path):
    write(label_of(decathlon(tmp_path, ["a"]), "a"), 0 * mask())
    with pytest.raises(DatasetError, match="expected foreground"):
        fingerprint_of(tmp_path)


def test_a_class_without_a_voxel_and_an_empty_label_are_warned_about(tmp_path):
    write(label_of(decathlon(tmp_path, ["a", "b"]), "a"), 0 * mask())
    write(label_of(tmp_path, "b"), np.minimum(mask(), 1))
    warnings = "\n".join(fingerprint_of(tmp_path)[0].warnings)
    assert "Class right (2) is in no labelled case (of 2)" in warnings
    assert "Only background in 1 labelled case, e.g. a." in warnings


def test_unlabelled_scans_like_the_labelled_ones_give_no_warning(tmp_path):
    assert fingerprint_of(decathlon(tmp_path, NAMES[:3], ("u", "v")))[0].warnings == ()


@pytest.mark.parametrize(
    ("image", "grid", "channel", "message"),
    [
        (voxels(9), affine((1.0, 2.0, 5.0)), "MRI", "spacing on axis 2 differs.*3 mm .*5 mm"),
        (voxels(9, (6, 9, 4)), affine(), "MRI", "field of view on axis 1 differs.*10 mm .*18 mm"),
        (voxels(9) ** 12, affine(), "MRI", "intensities of channel MRI differ"),
        (1000 + voxels(9), affine(), "CT", "intensities of channel CT differ by more than 200"),
    ],
)
def test_unlabelled_scans_that_differ_are_warned_about(tmp_path, image, grid, channel, message):
    write(image_of(decathlon(tmp_path, NAMES[:3], ("u",), modality={"0": channel}), "u"), image, grid)
    warnings = fingerprint_of(tmp_path)[0].warnings
    assert any(re.search(message, warning) for warning in warnings)


def test_other_units_of_mr_are_no_difference(tmp_path):
    write(image_of(decathlon(tmp_path, NAMES[:3], ("u",)), "u"), 1000 * voxels(9) - 300)
    assert fingerprint_of(tmp_path)[0].warnings == ()


def test_where_no_label_file_can_be_read_the_first_reason_is_told(tmp_path):
    folder = decathlon(tmp_path, NAMES[:2])
    (folder / "dataset.json").unlink()
    for name in NAMES[:2]:
        label_of(folder, name).write_bytes(b"noise")
    with pytest.raises(DatasetError, match=r"received 0\. .* The first that cannot be read: .*casea\.nii\.gz"):
        fingerprint_of(folder)
