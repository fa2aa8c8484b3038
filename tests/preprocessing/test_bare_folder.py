"""A folder of images and labels without a dataset.json, or with one that says little."""

import unicodedata

import pytest

from mcsc_bundle.io import load_label
from preprocessing.dataset import DatasetError, read_dataset
from tests.preprocessing.scans import declare, folder_of, mask, names, voxels, write


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


@pytest.mark.parametrize("odd", ["a", "b", "c", "d", "ae"])
def test_unlabelled_series_or_a_single_one_do_not_make_all_images_series(tmp_path, odd):
    for seed, name in enumerate("abcde"):
        write(tmp_path / "images" / f"{name}.nii", voxels(seed, (3, 4, 5, 2) if name in odd else (3, 4, 5)))
    for name in "bcd":
        write(tmp_path / "labels" / f"{name}.nii", mask((3, 4, 5)))
    assert read_dataset(tmp_path).channel_names == ("image",)


def test_names_match_whatever_way_accents_are_stored(tmp_path):
    write(tmp_path / "images" / f"{unicodedata.normalize('NFC', 'Jürgen')}.nii", voxels(0))
    write(tmp_path / "labels" / f"{unicodedata.normalize('NFD', 'Jürgen')}.nii", mask())
    (case,) = read_dataset(tmp_path).cases
    assert case.label is not None and load_label(case.label).shape == (1, *mask().shape)


def test_what_is_no_image_is_told(tmp_path, caplog):
    folder = folder_of(tmp_path, ["a"], ["a"])
    write(folder / "images" / "series" / "c.nii", voxels(3))
    for name in ("images/b.hdr", "labels/b.img", "images/README", "images/b.bval", "images/v.raw"):
        (folder / name).touch()
    read_dataset(folder)
    told = sorted(record.message for record in caplog.records if "not used, as images" in record.message)
    assert [message.rsplit(": ", 1)[1] for message in told] == ["b.hdr, series.", "b.img."]


def test_folders_that_hold_listed_images_are_used(tmp_path, caplog):
    write(tmp_path / "images" / "p1" / "t1.nii", voxels(0))
    write(tmp_path / "labels" / "p1.nii", mask())
    items = [{"image": "images/p1/t1.nii", "label": "labels/p1.nii"}]
    read_dataset(declare(tmp_path, labels={"background": 0, "organ": 1}, modality={"0": "MRI"}, training=items))
    assert "not used" not in caplog.text


def test_a_bare_folder_may_list_unlabelled_cases_alone(tmp_path):
    folder = folder_of(tmp_path, ["a"], ["a"])
    write(tmp_path / "more" / "c.nii.gz", voxels(5))
    (folder / "dataset.json").write_text('{"unlabeled": ["more/c.nii.gz"]}')
    assert names(read_dataset(folder), labeled=False) == ["c"]


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
