"""Cases of one patient stay together: declared, or by their names."""

import json
from unicodedata import normalize

import pytest

from preprocessing.dataset import read_dataset
from tests.preprocessing.scans import LABELS, decathlon, declare, folder_of


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


@pytest.mark.parametrize("declared", [{"groups": {"Zoë": "A", "Jürgen": "A"}}, {"subject_groups": [["Zoë", "Jürgen"]]}])
def test_declared_names_match_whatever_way_accents_are_stored(tmp_path, declared):
    """As where a data set was made on macOS: files and ``dataset.json`` have accents apart."""
    folder = folder_of(tmp_path, [normalize("NFD", name) for name in ("Zoë", "Jürgen")], [normalize("NFD", "Zoë")])
    (folder / "dataset.json").write_text(normalize("NFD", json.dumps(declared, ensure_ascii=False)), encoding="utf-8")
    one, other = read_dataset(folder).cases
    assert one.group == other.group


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
    read_dataset(
        decathlon(tmp_path / "told apart", ["patient1_frame01", "patient1_frame12", "sub-04_ses-01", "sub-04_ses-02"])
    )
    read_dataset(decathlon(tmp_path / "others", ["P4-1", "P5-1", "h_001", "h_002"]))
    read_dataset(decathlon(tmp_path / "many", [f"LUNA16_scan_{number}" for number in range(20)]))
    assert "have names like" not in caplog.text


def test_declared_patients_go_before_names(tmp_path):
    cases = ["h_001", "h_002", "h_003", "x_frame7", "x_frame8"]
    decathlon(tmp_path, cases, subject_groups=[[1, 2], [3], [99]], groups={"x_frame8": "other"})
    groups = {case.name: case.group for case in read_dataset(tmp_path).cases}
    assert groups["h_001"] == groups["h_002"] != groups["h_003"]
    assert (groups["x_frame7"], groups["x_frame8"]) == ("x", "other")


def test_groups_are_declared_beside_a_bare_folder(tmp_path):
    folder_of(tmp_path, ["a", "b", "c"], ["a", "b"], "images", "labels")
    declare(tmp_path, labels=LABELS, groups={"a": "one", "b": "one"})
    assert [case.group for case in read_dataset(tmp_path).cases] == ["one", "one", "c"]
