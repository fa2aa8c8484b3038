"""Files between the stages are read in one way, which names the file and what to do."""

from __future__ import annotations

import pytest

from mcsc_bundle.plan_files import PlanError, folds_of, read_json


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "expected the entries folds, received \\[\\]"),
        (b'{"fold": []}', "expected the entries folds, received {'fold'"),
    ],
)
def test_a_damaged_split_is_named_with_what_to_do(tmp_path, content, words):
    (tmp_path / "splits.json").write_bytes(content)
    with pytest.raises(
        PlanError, match=rf"splits\.json:? {words}.*Mend it\. Each fold of a cross-validation has a copy"
    ):
        folds_of(tmp_path)


def test_a_file_may_begin_with_the_mark_of_an_editor_or_be_missing(tmp_path):
    (tmp_path / "splits.json").write_text('{"folds": [1, 2]}', encoding="utf-8-sig")
    assert folds_of(tmp_path) == [1, 2]
    assert read_json(tmp_path / "rejected.json", {}) == {}
    with pytest.raises(PlanError, match=r"rejected\.json, which does not exist\. Plan the data set first"):
        read_json(tmp_path / "rejected.json")
    with pytest.raises(PlanError, match="Get the bundle again"):
        read_json(tmp_path / "configs" / "metadata.json")
