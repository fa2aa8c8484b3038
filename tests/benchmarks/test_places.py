"""Distances that can be checked by hand."""

import json
import sys

import numpy as np
import pytest

from benchmarks import places
from tests.preprocessing.scans import affine, decathlon, write


def test_the_nearest_labelled_centre_in_mm(tmp_path, monkeypatch, capsys):
    data = decathlon(tmp_path / "data", ["a", "b", "c"])
    for name, x in (("a", 0), ("b", 5), ("c", 1)):
        label = np.zeros((6, 5, 4), np.uint8)
        label[x, 2] = 1
        write(data / "labelsTr" / f"{name}.nii.gz", label, affine((2.0, 2.0, 5.0)))
    (tmp_path / "split.json").write_text(json.dumps({"labeled": ["a", "b"], "test": ["c"]}))
    monkeypatch.setattr(sys, "argv", ["places", str(data), str(tmp_path / "split.json")])
    places.main()
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["split"]
    assert (row["median_mm"], row["largest_mm"]) == pytest.approx((2.0, 2.0))
    for name, dice in (("before", 0.5), ("after", 0.75)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"cases": {"c": dice, "d": 0.5}}))
    gained = places.gained({"c": 14.0, "d": 30.0}, tmp_path / "before.json", tmp_path / "after.json")
    assert gained == {"near_gain": 25.0, "near_cases": 1, "far_gain": 0.0, "far_cases": 1}
    assert places.centre(data / "labelsTr" / "a.nii.gz").tolist() == [-5.0, 0.0]
