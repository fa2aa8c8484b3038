"""What a folder of scans holds beside the files we read."""

import pytest

from mcsc_bundle.folder import find_cases
from mcsc_bundle.passed_over import tell_of_others


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("a.hdr", "a.img", "b.mgz"), "a.hdr, a.img, b.mgz."),
        (("p1/scan.nii.gz", "p2/IM1.dcm"), "p1, p2."),
        (("notes.txt", "README", "a.raw", "a.bval", ".hidden.hdr", "notes/a.txt"), None),
        (tuple(f"{number}.dcm" for number in range(9)), "0.dcm, 1.dcm, 2.dcm, 3.dcm, 4.dcm, ... (9)."),
    ],
)
def test_scans_of_other_formats_are_named(tmp_path, names, told, caplog):
    for name in ("ok.nii.gz", *names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [item["case"] for item in find_cases(tmp_path)] == ["ok"]
    assert [record.message.rsplit(": ", 1)[1] for record in caplog.records] == ([] if told is None else [told])


def test_it_is_said_once(tmp_path, caplog):
    (tmp_path / "a.hdr").touch()
    for _ in range(2):
        tell_of_others(tmp_path)
    assert len(caplog.records) == 1
