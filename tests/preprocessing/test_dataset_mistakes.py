"""Every ordinary mistake of a data set is named with its path."""

import numpy as np
import pytest

from preprocessing.dataset import DatasetError, read_dataset
from preprocessing.fingerprint import measure
from preprocessing.split import make_split
from tests.preprocessing.scans import LABELS, decathlon, declare, folder_of, mask, names, voxels, write


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


LISTED = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]


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
