from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from mcsc_bundle.folder import FolderError, find_cases, find_cases_or_exit
from mcsc_bundle.formats import ImageError, read_file


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def found(folder, channels=1):
    return {item["case"]: [path.rsplit("/", 1)[1] for path in item["image"]] for item in find_cases(folder, channels)}


@pytest.mark.parametrize(
    "names, channels, cases",
    [
        (["b.nii", "a.nii.gz", "notes.txt", ".a.nii"], 1, {"a": ["a.nii.gz"], "b": ["b.nii"]}),
        (["c.mha", "d.nrrd"], 1, {"c": ["c.mha"], "d": ["d.nrrd"]}),
        (["a_0000.nii", "b_0000.nii"], 1, {"a": ["a_0000.nii"], "b": ["b_0000.nii"]}),
        (["a_0001.nii", "a_0002.nii"], 1, {"a_0001": ["a_0001.nii"], "a_0002": ["a_0002.nii"]}),
        (["a_0001.nii", "a_0000.nii", "b_0000.nii"], 2, {"a": ["a_0000.nii", "a_0001.nii"], "b": ["b_0000.nii", "b_0001.nii"]}),
        (["a.nii"], 2, {"a": ["a.nii"]}),
    ],
)  # fmt: skip
def test_files_become_cases(tmp_path, names, channels, cases):
    assert found(touch(tmp_path / "x y", *names), channels) == cases


def test_a_missing_channel_is_named_whatever_way_accents_are_stored(tmp_path):
    name = unicodedata.normalize("NFD", "Jürgen")
    touch(tmp_path, f"{name}_0000.nii.gz", "b_0000.nii", "b_0001.nii")
    assert found(tmp_path, 2)["Jürgen"][1] == "Jürgen_0001.nii.gz"


def test_a_data_set_gives_its_test_images_else_its_training_images(tmp_path):
    touch(tmp_path / "imagesTr", "train.nii.gz")
    touch(tmp_path, "dataset.json")
    assert list(found(tmp_path)) == ["train"]
    touch(tmp_path / "imagesTs", "test.nii.gz")
    assert list(found(tmp_path)) == ["test"]


def test_refused_with_what_to_do(tmp_path):
    with pytest.raises(FolderError, match="expected a folder of images"):
        find_cases(tmp_path / "none")
    with pytest.raises(FolderError, match=r"expected images \(.*found none"):
        find_cases(tmp_path)
    with pytest.raises(SystemExit, match=r"error: .*found none"):
        find_cases_or_exit(tmp_path)


def test_two_files_for_one_case_set_that_case_aside(tmp_path):
    touch(tmp_path, "a.nii", "a.mha", "b.nii")
    one, other = find_cases(tmp_path)
    assert "one file for case a, found ['a.mha', 'a.nii']. Keep one" in one["error"] and "error" not in other


@pytest.mark.parametrize("name", ["a.nii", "a_0000.mha"])
def test_channels_beside_another_file_of_the_case_set_it_aside(tmp_path, name):
    touch(tmp_path, "a_0000.nii", "a_0001.nii", name)
    (item,) = find_cases(tmp_path, 2)
    assert "one file for case a" in item["error"]


@pytest.mark.parametrize("there, missing", [((0, 2), 1), ((1, 2), 0), ((0, 1), 2)])
def test_a_missing_channel_is_listed_where_it_should_be(tmp_path, there, missing):
    """CASE_0000 and CASE_0002 are not channels 0 and 1."""
    touch(tmp_path, *(f"a_{index:04d}.nii.gz" for index in there), *(f"b_{index:04d}.nii.gz" for index in range(3)))
    one, other = find_cases(tmp_path, 3)
    assert one["image"][missing] == str(tmp_path / f"a_{missing:04d}.nii.gz") and len(one["image"]) == 3
    with pytest.raises(ImageError, match=rf"a_{missing:04d}.nii.gz: expected an image file, found none"):
        read_file(Path(one["image"][missing]), None)
    assert len(other["image"]) == 3


def test_a_link_to_nothing_is_a_case_that_says_so(tmp_path):
    touch(tmp_path, "b.nii")
    (tmp_path / "a.nii").symlink_to("gone.nii")
    one, _ = find_cases(tmp_path)
    with pytest.raises(ImageError, match=r"a\.nii: .*found a link to gone\.nii, which is not there"):
        read_file(Path(one["image"][0]), None)


def test_files_named_like_channels_are_cases_of_a_network_with_one_and_that_is_said(tmp_path, caplog):
    for name in ("one_0000", "two_0001"):
        (tmp_path / f"{name}.nii.gz").touch()
    with caplog.at_level("INFO"):
        assert set(found(tmp_path)) == {"one_0000", "two_0001"}
    assert "one_0000 is not taken for one of several" in caplog.text
