"""``clean`` frees what no plan uses, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from mcsc_bundle.plan import PlanError, save_json
from mcsc_bundle.store import CaseStore
from preprocessing.__main__ import main
from preprocessing.clean import find_unused
from tests.plans import make_plan
from tests.preprocessing.test_check import PLAN, make_run

OTHER = make_plan("3d", spacing_mm=(2.0, 2.0, 2.0))


def store_of(run, plan):
    """Cases a and b stored for another plan."""
    first = CaseStore(run / "preprocessed", PLAN.data_key)
    other = CaseStore(run / "preprocessed", plan.data_key)
    for name in ("a", "b"):
        case = first.open(name)
        other.write(name, case.read_image((0, 0, 0), case.shape), None, "hash")
    return other.folder


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_cases_of_a_plan_that_is_gone_are_removed(tmp_path, capsys) -> None:
    kept = make_run(tmp_path).folder
    before = files(kept)
    gone = store_of(tmp_path, OTHER)
    main(["clean", str(tmp_path)])
    assert not gone.exists() and files(kept) == before
    assert f"{gone}  2 cases" in (text := capsys.readouterr().out) and "MiB freed" in text


def test_a_dry_run_only_lists(tmp_path, capsys) -> None:
    make_run(tmp_path)
    store_of(tmp_path, OTHER)
    before = files(tmp_path)
    main(["clean", str(tmp_path), "--dry_run"])
    assert files(tmp_path) == before
    assert "would be freed" in capsys.readouterr().out


def test_every_plan_in_the_run_counts(tmp_path) -> None:
    make_run(tmp_path)
    store_of(tmp_path, OTHER)
    OTHER.save(tmp_path / "fold_1" / "plan.json")
    assert find_unused(tmp_path) == []


def test_cases_that_left_the_split_go(tmp_path) -> None:
    make_run(tmp_path)
    save_json(tmp_path / "splits.json", {"labeled": ["a"], "unlabeled": [], "test": []})
    (unused,) = find_unused(tmp_path)
    assert {path.name.split(".")[0] for path in unused.files} == {"b"}
    main(["clean", str(tmp_path)])
    store = CaseStore(tmp_path / "preprocessed", PLAN.data_key)
    assert "a" in store and "b" not in store and not list(store.folder.glob("b.*"))


def test_masks_of_a_first_stage_go_unless_a_run_remembers_it(tmp_path) -> None:
    """``a.previous.b2nd`` is what older versions called them; a case may bear such a name itself."""
    kept = make_run(tmp_path).folder
    save_json(tmp_path / "fold_0" / "previous.json", {"run_dir": "../first", "weights": "0123abcd" + 24 * "0"})
    CaseStore(tmp_path / "preprocessed", PLAN.data_key).write(
        "x.previous", np.zeros((1, 8, 8, 8), np.float32), None, "hash"
    )
    save_json(tmp_path / "splits.json", {"labeled": ["a", "b", "x.previous"], "unlabeled": [], "test": []})
    before = files(kept)
    for middle in ("", ".0123abcd", ".89abcdef"):
        for ending in ("b2nd", "txt"):
            (kept / f"a.previous{middle}.{ending}").write_text("a mask")
    (unused,) = find_unused(tmp_path)
    assert unused.cases == 1 and unused.why == "masks of a first stage that no run refines"
    main(["clean", str(tmp_path)])
    assert files(kept) == sorted([*before, *(kept / f"a.previous.0123abcd.{ending}" for ending in ("b2nd", "txt"))])


def test_strange_files_stay(tmp_path) -> None:
    make_run(tmp_path)
    gone = store_of(tmp_path, OTHER)
    (gone / "notes.txt").write_text("mine")
    (tmp_path / "preprocessed" / "mine").mkdir()
    main(["clean", str(tmp_path)])
    assert files(gone) == [gone / "notes.txt"] and (tmp_path / "preprocessed" / "mine").exists()


def test_without_a_readable_plan_nothing_is_removed(tmp_path) -> None:
    store = make_run(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="not valid JSON"):
        find_unused(tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(PlanError, match=r"expected a run folder with a plan.json"):
        find_unused(tmp_path)
    assert "a" in store
