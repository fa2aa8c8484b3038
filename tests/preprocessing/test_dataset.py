"""Every layout gives the same cases."""

import shutil
import unicodedata
from pathlib import Path

import pytest

from preprocessing.dataset import DatasetError, read_dataset
from tests.preprocessing.scans import LABELS, decathlon, declare, folder_of, mask, names, voxels, write


def test_decathlon_set_is_read_with_its_names(tmp_path):
    dataset = read_dataset(decathlon(tmp_path, ["b_1", "a_2"], ("c_3",)))
    assert (dataset.name, dataset.channel_names) == ("Tiny", ("MRI",))
    assert dataset.labels == {"background": 0, "left": 1, "right": 2}
    assert names(dataset, labeled=True) == ["a_2", "b_1"] and names(dataset, labeled=False) == ["c_3"]
    assert dataset.cases[0].label == tmp_path / "labelsTr" / "a_2.nii.gz"


def test_dataset_json_may_be_given_itself(tmp_path):
    assert read_dataset(decathlon(tmp_path, ["a"]) / "dataset.json") == read_dataset(tmp_path)


def test_paths_may_have_been_written_on_windows(tmp_path):
    items = [{"image": ".\\imagesTr\\a.nii.gz", "label": "labelsTr\\a.nii.gz"}]
    (case,) = read_dataset(decathlon(tmp_path, ["a"], training=items)).cases
    assert case.name == "a" and case.images[0].is_file() and case.label is not None and case.label.is_file()


def test_the_label_of_a_listed_path_is_found_whatever_way_accents_are_stored(tmp_path):
    name = unicodedata.normalize("NFC", "Jürgen")
    decathlon(tmp_path, [name], training=[f"imagesTr/{name}.nii.gz"])
    label = tmp_path / "labelsTr" / f"{name}.nii.gz"
    label.rename(label.with_name(unicodedata.normalize("NFD", label.name)))
    assert names(read_dataset(tmp_path), labeled=True) == [name]


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


def test_numbers_of_four_digits_are_the_cases_own_where_they_tell_them_apart(tmp_path):
    names_of = [f"img_{number:04d}" for number in range(3)]
    items = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/seg_{name[-4:]}.nii.gz"} for name in names_of]
    decathlon(tmp_path, names_of, training=items)
    for name in names_of:
        (tmp_path / "labelsTr" / f"{name}.nii.gz").rename(tmp_path / "labelsTr" / f"seg_{name[-4:]}.nii.gz")
    assert names(read_dataset(tmp_path), labeled=True) == names_of


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
