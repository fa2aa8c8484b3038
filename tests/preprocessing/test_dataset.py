"""Every layout gives the same cases; every ordinary mistake is named with its path."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from preprocessing.dataset import DatasetError, read_dataset
from preprocessing.fingerprint import measure
from preprocessing.split import make_split
from tests.preprocessing.scans import LABELS, decathlon, declare, mask, voxels, write


def names(dataset, labeled):
    return [case.name for case in dataset.cases if (case.label is not None) == labeled]


def folder_of(root, images, labels, image_folder="images", label_folder="labels"):
    for seed, name in enumerate(images):
        write(root / image_folder / f"{name}.nii.gz", voxels(seed))
    for name in labels:
        write(root / label_folder / f"{name}.nii.gz", mask())
    return root


def test_decathlon_set_is_read_with_its_names(tmp_path):
    dataset = read_dataset(decathlon(tmp_path, ["b_1", "a_2"], ("c_3",)))
    assert (dataset.name, dataset.channel_names) == ("Tiny", ("MRI",))
    assert dataset.labels == {"background": 0, "left": 1, "right": 2}
    assert names(dataset, labeled=True) == ["a_2", "b_1"] and names(dataset, labeled=False) == ["c_3"]
    assert dataset.cases[0].label == tmp_path / "labelsTr" / "a_2.nii.gz"


def test_dataset_json_may_be_given_itself(tmp_path):
    assert read_dataset(decathlon(tmp_path, ["a"]) / "dataset.json") == read_dataset(tmp_path)


def test_a_listed_label_that_is_not_there_makes_an_unlabelled_case(tmp_path):
    (decathlon(tmp_path, ["a", "b"]) / "labelsTr" / "b.nii.gz").unlink()
    assert names(read_dataset(tmp_path), labeled=False) == ["b"]


def test_an_item_without_label_is_unlabelled_though_a_label_file_exists(tmp_path):
    write(decathlon(tmp_path, ["a"], ("b",)) / "labelsTr" / "b.nii.gz", mask())
    assert names(read_dataset(tmp_path), labeled=False) == ["b"]


def test_an_item_that_is_a_path_has_the_label_of_its_name(tmp_path):
    items = ["./imagesTr/a.nii.gz", "imagesTr/b.nii.gz"]
    (decathlon(tmp_path, ["a", "b"], training=items) / "labelsTr" / "b.nii.gz").unlink()
    dataset = read_dataset(tmp_path)
    assert names(dataset, labeled=True) == ["a"] and names(dataset, labeled=False) == ["b"]


@pytest.mark.parametrize("key", ["unlabeled", "Unlabelled"])
def test_listed_and_folder_unlabelled_cases_count_once(tmp_path, key):
    decathlon(tmp_path, ["a"], **{key: ["imagesUn/u1.nii.gz", {"image": "imagesUn/u2.nii.gz"}]})
    for seed, name in enumerate(("u1", "u2", "u3"), start=10):
        write(tmp_path / "imagesUn" / f"{name}.nii.gz", voxels(seed))
    assert names(read_dataset(tmp_path), labeled=False) == ["u1", "u2", "u3"]


def test_test_images_are_never_taken(tmp_path):
    write(decathlon(tmp_path, ["a"], test=["./imagesTs/t.nii.gz"]) / "imagesTs" / "t.nii.gz", voxels(9))
    assert [case.name for case in read_dataset(tmp_path).cases] == ["a"]
    declare(tmp_path, labels=LABELS, training=[], unlabeled=["imagesTs/t.nii.gz"])
    with pytest.raises(DatasetError, match=r"t\.nii\.gz: expected no training case in imagesTs.*imagesUn"):
        read_dataset(tmp_path)


def test_letter_case_of_folders_keys_and_paths_does_not_matter(tmp_path):
    decathlon(tmp_path, ["a"])
    (tmp_path / "imagesTr").rename(tmp_path / "ImagesTR")
    (tmp_path / "labelsTr").rename(tmp_path / "labelstr")
    item = {"Image": "imagestr/A.nii.gz", "LABEL": "labelsTr/a.nii.gz"}
    (tmp_path / "dataset.json").unlink()
    declare(tmp_path, **{"Labels": LABELS, "Modality": "MRI", "TRAINING": [item]})
    (case,) = read_dataset(tmp_path).cases
    assert case.images[0] == tmp_path / "ImagesTR" / "a.nii.gz" and case.label is not None


def test_nnunet_folder_gives_channels_in_order(tmp_path):
    folder_of(tmp_path, ["p_0001", "p_0000", "q_0000", "q_0001"], ["p"], "imagesTr", "labelsTr")
    channels = {"1": "T2", "0": "T1"}
    labels = {"background": 0, "lesion": 7, "liver": 3}
    dataset = read_dataset(declare(tmp_path, channel_names=channels, labels=labels, file_ending=".nii.gz"))
    assert dataset.channel_names == ("T1", "T2")
    assert list(dataset.labels.items()) == [("background", 0), ("liver", 3), ("lesion", 7)]
    assert [path.name for path in dataset.cases[0].images] == ["p_0000.nii.gz", "p_0001.nii.gz"]
    assert names(dataset, labeled=True) == ["p"] and names(dataset, labeled=False) == ["q"]


def test_nnunet_case_that_lacks_a_channel_lists_it_where_it_should_be(tmp_path):
    folder_of(tmp_path, ["p_0000", "p_0001", "q_0001"], ["p", "q"], "imagesTr", "labelsTr")
    dataset = read_dataset(declare(tmp_path, channel_names={"0": "T1", "1": "T2"}, labels=LABELS))
    assert dataset.cases[1].images[0] == tmp_path / "imagesTr" / "q_0000.nii.gz"


def test_nnunet_list_of_files_elsewhere(tmp_path):
    folder_of(tmp_path, ["x", "y"], ["x"])
    files = {"one": {"images": ["images/x.nii.gz"], "label": "labels/x.nii.gz"}, "two": {"images": ["images/y.nii.gz"]}}
    dataset = read_dataset(declare(tmp_path, channel_names={"0": "CT"}, labels=LABELS, dataset=files))
    assert names(dataset, labeled=True) == ["one"] and names(dataset, labeled=False) == ["two"]


def test_decathlon_list_of_a_set_renamed_for_nnunet_finds_the_channels(tmp_path):
    decathlon(tmp_path, ["a"])
    (tmp_path / "imagesTr" / "a.nii.gz").rename(tmp_path / "imagesTr" / "a_0000.nii.gz")
    (case,) = read_dataset(tmp_path).cases
    assert (case.name, case.images[0].name) == ("a", "a_0000.nii.gz")


def test_bare_folder_is_matched_by_name_and_leaves_its_labels_to_the_fingerprint(tmp_path, caplog):
    dataset = read_dataset(folder_of(tmp_path / "Knees", ["k1", "k2"], ["k2"]))
    assert (dataset.name, dataset.channel_names, dataset.labels) == ("Knees", ("image",), {})
    assert names(dataset, labeled=True) == ["k2"]
    assert "z-score" in caplog.text and '"CT"' in caplog.text


def test_a_bare_folder_may_declare_patients_alone(tmp_path):
    folder = folder_of(tmp_path, ["P4-1", "P4-2"], ["P4-1"])
    (folder / "dataset.json").write_text('{"groups": {"P4-1": "A", "P4-2": "A"}}')
    dataset = read_dataset(folder)
    assert (dataset.labels, dataset.regions, dataset.ignore_value) == ({}, {}, None)
    assert [case.group for case in dataset.cases] == ["A", "A"]


@pytest.mark.parametrize(
    ("darkest", "last", "channel"),
    [(-1024, -1000, "CT"), (-899, -1000, "image"), (-1024, 0, "image"), (-4096, -4096, "image"), (0, 0, "image")],
)
def test_bare_folder_of_images_with_air_in_hounsfield_units_is_ct(tmp_path, darkest, last, channel, caplog):
    for name, value in (("a", darkest), ("b", last)):
        image = voxels(0, (3, 4, 5))
        image[0, 0] = value
        write(tmp_path / "images" / f"{name}.nii", image)
    write(tmp_path / "labels" / "a.nii", mask((3, 4, 5)))
    assert read_dataset(tmp_path).channel_names == (channel,)
    assert ('"MR"' in caplog.text) == ("normalised as CT" in caplog.text) == (channel == "CT")


def test_a_bare_folder_takes_its_channels_from_what_can_be_read(tmp_path):
    for seed, name in enumerate("abc"):
        write(tmp_path / "images" / f"{name}.nii", voxels(seed, (3, 4, 5, 2)))
    write(tmp_path / "labels" / "b.nii", mask((3, 4, 5)))
    (tmp_path / "images" / "a.nii").write_bytes(b"cut off")
    assert read_dataset(tmp_path).channel_names == ("image_0", "image_1")


def test_numbers_of_four_digits_are_the_cases_own_where_they_tell_them_apart(tmp_path):
    names_of = [f"img_{number:04d}" for number in range(3)]
    items = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/seg_{name[-4:]}.nii.gz"} for name in names_of]
    decathlon(tmp_path, names_of, training=items)
    for name in names_of:
        (tmp_path / "labelsTr" / f"{name}.nii.gz").rename(tmp_path / "labelsTr" / f"seg_{name[-4:]}.nii.gz")
    assert names(read_dataset(tmp_path), labeled=True) == names_of


def test_channels_that_are_listed_as_cases_are_no_cases(tmp_path):
    write(tmp_path / "labelsTr" / "p.nii.gz", mask())
    items = []
    for channel in range(2):
        write(tmp_path / "imagesTr" / f"p_000{channel}.nii.gz", voxels(channel))
        items.append({"image": f"imagesTr/p_000{channel}.nii.gz", "label": "labelsTr/p.nii.gz"})
    declare(tmp_path, labels=LABELS, training=items)
    with pytest.raises(DatasetError, match="expected each case name once"):
        read_dataset(tmp_path)
    (tmp_path / "imagesTr" / "p_0000.nii.gz").rename(tmp_path / "imagesTr" / "t1.nii.gz")
    items[0]["image"] = "imagesTr/t1.nii.gz"
    declare(tmp_path, labels=LABELS, training=items)
    with pytest.raises(DatasetError, match=r"expected a label file for each case, received .*list them together"):
        read_dataset(tmp_path)


def test_a_bare_folder_may_list_unlabelled_cases_alone(tmp_path):
    folder = folder_of(tmp_path, ["a"], ["a"])
    write(tmp_path / "more" / "c.nii.gz", voxels(5))
    (folder / "dataset.json").write_text('{"unlabeled": ["more/c.nii.gz"]}')
    assert names(read_dataset(folder), labeled=False) == ["c"]


def test_a_folder_is_listed_once_for_all_cases_of_a_list(tmp_path, monkeypatch):
    decathlon(tmp_path, [f"case_{number}" for number in range(30)], modality={"0": "T1", "1": "T2"})
    for path in sorted((tmp_path / "imagesTr").iterdir()):  # as nnU-Net v1 has it
        for channel in range(2):
            shutil.copy(path, path.with_name(f"{path.name[:-7]}_{channel:04d}.nii.gz"))
        path.unlink()
    looked = []
    look = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: looked.append(folder) or look(folder))
    cases = read_dataset(tmp_path).cases
    assert len(cases) == 30 and all(len(case.images) == 2 for case in cases)
    assert len(looked) < 12


def test_a_bare_folder_whose_labels_are_misspelt_is_refused(tmp_path):
    folder = folder_of(tmp_path, ["a"], ["a"])
    (folder / "dataset.json").write_text('{"label": {"background": 0, "organ": 1, "ignore": 2}}')
    with pytest.raises(DatasetError, match='expected "labels"'):
        read_dataset(folder)


def test_bare_folder_names_the_channels_of_a_4d_image(tmp_path):
    write(tmp_path / "images" / "a.nii", voxels(0, (3, 4, 5, 2)))
    write(tmp_path / "labels" / "a.nii", mask((3, 4, 5)))
    assert read_dataset(tmp_path).channel_names == ("image_0", "image_1")


def test_four_digits_are_the_case_number_if_labels_have_them_too(tmp_path):
    dataset = read_dataset(folder_of(tmp_path, ["scan_0000", "scan_0001"], ["scan_0000"], "imagesTr", "labelsTr"))
    assert [case.name for case in dataset.cases] == ["scan_0000", "scan_0001"]


def test_hidden_files_of_archives_are_no_images(tmp_path):
    (folder_of(tmp_path, ["a"], ["a"]) / "images" / "._a.nii.gz").write_bytes(b"junk")
    assert len(read_dataset(tmp_path).cases) == 1


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient001_frame01", "patient001"),
        ("patient001_frame12_slice_7", "patient001"),
        ("heart3_ED", "heart3"),
        ("sub-04_ses-02", "sub-04"),
        ("scan_t2", "scan"),
        ("P1_scan2", "P1_scan2"),
        ("LUNA16_scan_001_left", "LUNA16_scan_001"),
        ("P4-1", "P4-1"),
        ("hippocampus_003", "hippocampus_003"),
        ("frame01", "frame01"),
    ],
)
def test_patient_from_the_name(tmp_path, name, patient):
    assert read_dataset(decathlon(tmp_path, [name])).cases[0].group == patient


def test_names_that_may_hide_patients_are_told_unless_groups_are_declared(tmp_path, caplog):
    read_dataset(decathlon(tmp_path / "told", ["P4-1", "P4-2", "P5-1", "h_001", "h_002"]))
    read_dataset(decathlon(tmp_path / "scans", ["P4_scan1", "P4_scan2"]))
    assert "2 cases have names like P4_scan1 and P4_scan2" in caplog.text
    assert "2 cases have names like P4-1 and P4-2" in caplog.text
    read_dataset(
        decathlon(tmp_path / "slices", [f"P{patient}_{number}" for patient in range(2) for number in range(15)])
    )
    assert "30 cases have names like P0_0 and P0_1" in caplog.text
    caplog.clear()
    read_dataset(decathlon(tmp_path / "declared", ["P4-1", "P4-2"], groups={"P4-1": "P4", "P4-2": "P4"}))
    read_dataset(decathlon(tmp_path / "others", ["P4-1", "P5-1", "h_001", "h_002"]))
    read_dataset(decathlon(tmp_path / "many", [f"LUNA16_scan_{number}" for number in range(20)]))
    assert "have names like" not in caplog.text


def test_declared_patients_go_before_names(tmp_path):
    cases = ["h_001", "h_002", "h_003", "x_frame7", "x_frame8"]
    decathlon(tmp_path, cases, subject_groups=[[1, 2], [3], [99]], groups={"x_frame8": "other"})
    groups = {case.name: case.group for case in read_dataset(tmp_path).cases}
    assert groups["h_001"] == groups["h_002"] != groups["h_003"]
    assert (groups["x_frame7"], groups["x_frame8"]) == ("x", "other")


LISTED = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]


def test_regions_keep_their_order_and_take_the_values_they_are_painted_with(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "rim": 3, "ignore": 4}
    decathlon(tmp_path, ["a"], labels=labels, regions_class_order=[2, 1, 3])
    dataset = read_dataset(tmp_path)
    assert list(dataset.labels.items()) == [("background", 0), ("whole", 2), ("core", 1), ("rim", 3)]
    assert dataset.regions == {"whole": (1, 2, 3), "core": (1, 3), "rim": (3,)} and dataset.ignore_value == 4


@pytest.mark.parametrize(
    "labels", [{"background": 0, "a": 1, "ignore": 2}, {"0": "background", "1": "a", "2": "ignore"}]
)
def test_the_ignore_label_is_no_class(tmp_path, labels):
    decathlon(tmp_path, ["a"], labels=labels)
    dataset = read_dataset(tmp_path)
    assert (dataset.labels, dataset.ignore_value) == ({"background": 0, "a": 1}, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": {}}, 'expected "labels"'),
        ({"labels": {"background": 0}}, "expected 1 to 254 labels besides background"),
        ({"labels": {"background": 0, "tumour": [1, 2]}}, 'expected "regions_class_order" with one value of each'),
        ({"labels": {"a": [1, 2], "b": 2}, "regions_class_order": [1]}, "regions_class_order.*received .1."),
        (
            {"labels": {"a": [1, 2], "b": 2}, "regions_class_order": [2, 2]},
            r"in none of the later ones, received \[2, 2\]",
        ),
        ({"labels": {"a": [1, 2], "b": 2}, "regions_class_order": [1, 3]}, "one value of each region"),
        ({"labels": {"a": [1, "2"]}, "regions_class_order": [1]}, "region 'a' as a list of positive integers"),
        ({"labels": {"a": [1, 2], "ignore": [3]}, "regions_class_order": [1]}, "ignore as one"),
        ({"labels": {"a": [1, 2], "ignore": 2}, "regions_class_order": [1]}, "ignore label once and as the highest"),
        ({"labels": {"background": 0, "ignore": 1, "a": 2}}, "ignore label once and as the highest value.*Give it 3"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "ignore label once and as the highest value"),
        ({"labels": {"background": 0, "ignore": 1}}, "expected 1 to 254 labels besides background"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "each label name and value once"),
        ({"labels": {"background": 1, "organ": 0}}, "expected the value 0 for background, received 1"),
        ({"labels": {"1": "Background", "2": "organ"}}, "expected the value 0 for background, received 1"),
        ({"dataset": {"../a": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}}}, r"received '\.\./a'"),
        ({"dataset": {"p/1": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}}}, "without a slash"),
        ({"labels": {"a": "one"}}, "integer"),
        ({"training": {"a": 1}}, 'expected "training" as a list'),
        ({"training": [{"label": "labelsTr/a.nii.gz"}]}, "path of an image"),
        ({"training": [{"image": 5}]}, "path of an image"),
        ({"training": [{"image": {"0": "a.nii.gz"}}]}, "path of an image"),
        ({"training": [{"image": ["imagesTr/a.nii.gz", 3]}]}, "path of an image"),
        ({"training": [{"image": "imagesTr/a.nii.gz", "label": 7}]}, "path of an image"),
        ({"training": [{"image": "imagesTr/a.nii.gz", "label": ["labelsTr/a.nii.gz"]}]}, "path of an image"),
        ({"training": [3]}, "path of an image"),
        ({"training": [None]}, "path of an image"),
        ({"training": "imagesTr"}, 'expected "training" as a list'),
        ({"unlabeled": [{"image": None}]}, 'item of "unlabeled" to have the path of an image'),
        ({"unlabeled": "imagesUn"}, 'expected "unlabeled" as a list'),
        ({"dataset": {"a": {"images": 3}}}, 'item of "dataset" to have the path of an image'),
        ({"channel_names": 5}, 'expected "channel_names"'),
        ({"channel_names": {"0": {"name": "CT"}}}, 'expected "channel_names"'),
        ({"labels": ["background", "a"]}, 'expected "labels"'),
        ({"labels": {"background": 0, "a": {"value": 1}}}, "integer"),
        ({"groups": ["a"]}, 'expected "groups"'),
        ({"training": [*LISTED, *LISTED]}, "each case name once, received 'a'"),
        ({"training": ["imagesTr/b.nii.gz"]}, "at least one labelled case"),
        ({"training": []}, "the data set is empty"),
        ({"groups": {"z": 1}}, 'expected cases of the data set in "groups", received z'),
        ({"subject_groups": 3}, "list of lists"),
    ],
)
def test_a_mistake_in_dataset_json_is_named(tmp_path, content, message):
    decathlon(tmp_path, ["a"], **content)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_broken_json_is_named(tmp_path):
    (tmp_path / "dataset.json").write_text("{labels")
    with pytest.raises(DatasetError, match=r"dataset\.json is not valid JSON"):
        read_dataset(tmp_path)


def test_a_folder_that_is_no_data_set_is_told_the_layouts(tmp_path):
    with pytest.raises(DatasetError, match=r"which is no folder.*imagesTr"):
        read_dataset(tmp_path / "missing")
    write(tmp_path / "scan.nii.gz", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(DatasetError, match=r"or images/ and labels/.*received scan\.nii\.gz"):
        read_dataset(tmp_path)


def test_a_label_without_image_and_a_name_twice_are_named(tmp_path):
    write(folder_of(tmp_path, ["a"], ["a", "b"]) / "images" / "c.nii.gz", voxels(5))
    with pytest.raises(DatasetError, match=r"labels/b\.nii\.gz: expected an image of this name"):
        read_dataset(tmp_path)
    write(tmp_path / "images" / "c.nii", voxels(5))
    with pytest.raises(DatasetError, match=r"c\.nii and .*c\.nii\.gz for case 'c'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_a_link_to_nothing_is_listed_so_that_its_case_is_set_aside(tmp_path, folder):
    folder_of(tmp_path, ["p", "q"], ["p", "q"], "imagesTr", "labelsTr")
    (tmp_path / folder / "p.nii.gz").unlink()
    (tmp_path / folder / "p.nii.gz").symlink_to("gone.nii.gz")
    dataset = read_dataset(tmp_path)
    assert names(dataset, labeled=True) == ["p", "q"]
    _, rejected = measure(dataset, make_split(dataset), workers=1)
    assert list(rejected) == ["p"] and "link to gone.nii.gz, which is not there" in rejected["p"]


def test_one_image_without_a_channel_number_among_others_is_named(tmp_path):
    folder_of(tmp_path, ["p", "q_0000", "r_0000"], ["p", "q", "r"], "imagesTr", "labelsTr")
    with pytest.raises(DatasetError, match=r"p\.nii\.gz: expected a channel number .* Rename it to p_0000"):
        read_dataset(tmp_path)


def test_groups_are_declared_beside_a_bare_folder(tmp_path):
    folder_of(tmp_path, ["a", "b", "c"], ["a", "b"], "images", "labels")
    declare(tmp_path, labels=LABELS, groups={"a": "one", "b": "one"})
    assert [case.group for case in read_dataset(tmp_path).cases] == ["one", "one", "c"]
