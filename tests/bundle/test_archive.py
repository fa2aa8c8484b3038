from __future__ import annotations

import os
import zipfile

import pytest

from bundle.archive import pack_zip, unpack_zip
from bundle.facts import PackError
from mcsc_bundle.files import DiskError


def zip_of(path, *names, link=False):
    with zipfile.ZipFile(path, "w") as zipped:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if link else 0o100644) << 16
            zipped.writestr(info, "content")
    return path


@pytest.mark.parametrize(
    "name", ["../evil", "good/../../evil", "/evil", "good\\..\\..\\evil", "C:/evil", "C:\\evil", "evil"]
)
def test_a_member_that_leaves_the_folder_is_refused_and_nothing_is_written(tmp_path, name):
    target = tmp_path / "inside" / "folder"
    with pytest.raises(PackError, match="which leaves it"):
        unpack_zip(zip_of(tmp_path / "a.zip", "good/a", name), target)
    assert not target.exists() and not list(tmp_path.rglob("evil"))


def test_links_doubles_and_other_files_are_refused(tmp_path):
    with pytest.raises(PackError, match="the link 'good/a'"):
        unpack_zip(zip_of(tmp_path / "a.zip", "good/a", link=True), tmp_path / "to")
    for name in ("good/.hidden.pkl", "good/mcsc_bundle/__pycache__/io.cpython-311.pyc"):
        with pytest.raises(PackError, match="hidden or compiled"):
            unpack_zip(zip_of(tmp_path / "e.zip", name), tmp_path / "to")
    with pytest.raises(PackError, match="each file once"):
        unpack_zip(zip_of(tmp_path / "b.zip", "good/a", "good/A"), tmp_path / "to")
    with pytest.raises(PackError, match="expected one folder"):
        unpack_zip(zip_of(tmp_path / "c.zip", "good/a", "other/b"), tmp_path / "to")
    (tmp_path / "d.zip").write_text("no zip")
    with pytest.raises(PackError, match="expected a zip file"):
        unpack_zip(tmp_path / "d.zip", tmp_path / "to")


def test_the_same_content_gives_the_same_bytes_whenever_it_was_written(tmp_path):
    archives = []
    for index, order in enumerate((("b", "a"), ("a", "b"))):
        folder = tmp_path / str(index) / "name"
        (folder / "__pycache__").mkdir(parents=True)
        (folder / "docs").mkdir()
        for name in order:
            (folder / "docs" / name).write_text(name * 100)
            os.utime(folder / "docs" / name, (index * 10**6, index * 10**6))
        (folder / "__pycache__" / "x.pyc").write_text(str(index))
        archives.append(tmp_path / f"{index}.zip")
        pack_zip(folder, archives[-1])
    assert archives[0].read_bytes() == archives[1].read_bytes()
    bundle = unpack_zip(archives[0], tmp_path / "to")
    docs = bundle / "docs"
    assert sorted(path.name for path in docs.iterdir()) == ["a", "b"] and (docs / "a").read_text() == "a" * 100


def test_a_zip_that_cannot_be_written_leaves_nothing_half_written(tmp_path):
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "LICENSE").write_text("text")
    (tmp_path / "name.zip" / "in the way").mkdir(parents=True)
    with pytest.raises(DiskError, match=r"name\.zip: cannot be written"):
        pack_zip(tmp_path / "name", tmp_path / "name.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name", "name.zip"]


def test_results_of_a_bundle_s_use_do_not_go_along(tmp_path):
    folder = tmp_path / "name"
    for place in ("eval/patient.nii.gz", "eval/summary.csv", "models/model.pt", "LICENSE", "notes.txt"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text("")
    pack_zip(folder, tmp_path / "name.zip")
    assert sorted(zipfile.ZipFile(tmp_path / "name.zip").namelist()) == ["name/LICENSE", "name/models/model.pt"]
