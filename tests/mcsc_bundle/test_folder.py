from __future__ import annotations

import pytest

from mcsc_bundle.folder import FolderError, find_cases, find_cases_or_exit


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
        (["a_0001.nii", "a_0000.nii", "b_0000.nii"], 2, {"a": ["a_0000.nii", "a_0001.nii"], "b": ["b_0000.nii"]}),
        (["a.nii"], 2, {"a": ["a.nii"]}),
    ],
)  # fmt: skip
def test_files_become_cases(tmp_path, names, channels, cases):
    assert found(touch(tmp_path / "x y", *names), channels) == cases


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
    touch(tmp_path, "a.nii", "a.mha")
    with pytest.raises(FolderError, match="one file for case a"):
        find_cases(tmp_path)
    with pytest.raises(SystemExit, match=r"error: .*one file for case a"):
        find_cases_or_exit(tmp_path)
