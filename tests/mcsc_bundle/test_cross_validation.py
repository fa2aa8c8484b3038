"""Which folds are trained, with what, and what is made of their masks; training itself is replaced by drawing a mask."""

import csv
import hashlib
import json

import numpy as np
import pytest

from mcsc_bundle import cross_validation, fold_account
from mcsc_bundle.case_metrics import CaseMetric
from mcsc_bundle.cross_validation import cross_validate
from mcsc_bundle.fold_scores import table
from mcsc_bundle.metrics import evaluate
from mcsc_bundle.postprocessing import Postprocessing
from tests.mcsc_bundle.images import save
from tests.plans import make_plan

CASES = ("a", "b", "c")
PLAN = make_plan("3d", labels={"background": 0, "lesion": 1})


def drawn(speck):
    """A block of 12 voxels and, with ``speck``, one more far from it."""
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1:3, 1:3, 1:4] = 1
    mask[5, 5, 5] = speck
    return mask


@pytest.fixture
def road(tmp_path, monkeypatch):
    """A data set of three cases, and a list of the workflows that ran; fold k leaves out case k and finds a speck in it."""
    runs, ran = tmp_path / "runs", []
    references = {case: str(save(drawn(0), tmp_path / "truth" / f"{case}.nii.gz")) for case in CASES}

    def prepare(files, overrides, world):
        runs.mkdir(exist_ok=True)
        if not (runs / "plan.json").exists():
            PLAN.save(runs / "plan.json")
            for name in set(cross_validation.PLANNING) - {"plan.json", "splits.json"}:
                (runs / name).write_text("{}")
            (runs / "splits.json").write_text(json.dumps({"folds": [{"val": [case]} for case in CASES]}))
        return {case: {"case": case, "label": path} for case, path in references.items()}

    def run_workflow(files, run_id, overrides, begin=None):
        folder, case = runs / f"fold_{overrides['fold']}", CASES[overrides["fold"]]
        ran.append((run_id, overrides["fold"]))
        assert overrides["output_dir"] == str(folder) and overrides["cache_dir"] == str(runs / "preprocessed")
        assert overrides["seed"] == overrides["fold"] and (folder / "plan.json").exists()
        if run_id == "training":
            begin(overrides.get("max_epochs", 40))
            (folder / "models").mkdir(exist_ok=True)
            (folder / "models" / "checkpoint.pt").touch()
        else:
            assert overrides["postprocess"] is False  # it is decided on these masks
            assert overrides["held_out"] == "$@prepared.val" and files[-1].endswith("evaluate.yaml")
            save(drawn(1), folder / "masks" / f"{case}.nii.gz")
            evaluate(folder / "masks", {case: references[case]}, PLAN.labels, folder / "metrics.csv")

    monkeypatch.setattr(cross_validation, "prepare_folds", prepare)
    monkeypatch.setattr(cross_validation, "run_workflow", run_workflow)
    return runs, ran


def both(*folds):
    return [(run_id, fold) for fold in folds for run_id in ("training", "evaluate")]


def test_every_fold_is_trained_once_and_the_scores_are_joined(road, capsys):
    runs, ran = road
    cross_validate("DATA", str(runs))
    assert ran == both(0, 1, 2)
    with (runs / "cross_validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["case"]) for row in rows] == [("0", "a"), ("1", "b"), ("2", "c")]
    assert all(float(row["dice"]) == pytest.approx(24 / 25) for row in rows)
    made = Postprocessing.load(runs / "postprocessing.json")
    assert made.adopted == (("lesion",),) and made.cases == 3 and made.steps[0].mean_after == 1
    assert "adopted: keeping the largest component of lesion" in capsys.readouterr().out
    cross_validate("DATA", str(runs))
    assert ran == both(0, 1, 2)


def test_some_folds_first_and_the_others_later(road, capsys):
    runs, ran = road
    cross_validate("DATA", str(runs), folds=(0, 2))
    assert ran == both(0, 2) and not (runs / "postprocessing.json").exists()
    assert "Left: fold 1" in capsys.readouterr().out
    cross_validate("DATA", str(runs), folds=1)
    assert ran == both(0, 2, 1) and (runs / "postprocessing.json").exists()


def test_a_fold_that_was_stopped_goes_on(road, monkeypatch):
    runs, ran = road
    whole = cross_validation.run_workflow

    def stopped(files, run_id, overrides, *begin):
        if (run_id, overrides["fold"]) == ("evaluate", 1):
            raise KeyboardInterrupt
        whole(files, run_id, overrides, *begin)

    monkeypatch.setattr(cross_validation, "run_workflow", stopped)
    with pytest.raises(KeyboardInterrupt):
        cross_validate("DATA", str(runs))
    monkeypatch.setattr(cross_validation, "run_workflow", whole)
    cross_validate("DATA", str(runs))
    assert ran == [*both(0), ("training", 1), *both(1, 2)]


def test_a_case_that_fails_does_not_stop_the_other_folds(road, monkeypatch):
    runs, ran = road
    whole = cross_validation.run_workflow

    def full_disk(files, run_id, overrides, *begin):
        whole(files, run_id, overrides, *begin)
        if (run_id, overrides["fold"]) == ("evaluate", 0):
            raise SystemExit(1)

    monkeypatch.setattr(cross_validation, "run_workflow", full_disk)
    with pytest.raises(SystemExit) as end:
        cross_validate("DATA", str(runs))
    assert end.value.code == 1 and ran == both(0, 1, 2) and not (runs / "postprocessing.json").exists()


def test_processes_share_the_folds(road, monkeypatch):
    runs, ran = road
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, folds in (("0", (0, 2)), ("1", (1,))):
        ran.clear()
        monkeypatch.setenv("RANK", rank)
        cross_validate("DATA", str(runs))
        assert ran == both(*folds)
    assert (runs / "postprocessing.json").exists()  # by whoever ends last


def test_longer_training_goes_on_but_other_options_are_refused(road):
    runs, ran = road
    cross_validate("DATA", str(runs), max_epochs=2)
    cross_validate("DATA", str(runs), max_epochs=4, workers=3)
    assert ran == both(0, 1, 2, 0, 1, 2)
    with pytest.raises(SystemExit, match="fold_0 was trained with another --lr than"):
        cross_validate("DATA", str(runs), lr=0.1)
    with pytest.raises(SystemExit, match="another config_file than"):
        cross_validate("DATA", str(runs), config_file=["configs/train.yaml", "configs/method_cps.yaml"])


def test_folds_whose_patches_stayed_in_place_are_not_compared_with_others(road):
    """Accounts of older versions do not tell of it."""
    runs, ran = road
    cross_validate("DATA", str(runs), folds=0, leeway=0)
    path = runs / "fold_0" / "cross_validation.json"
    older = json.loads(path.read_text())
    del older["leeway"], older["options"]["leeway"]
    path.write_text(json.dumps(older))
    with pytest.raises(SystemExit, match="fold_0 was trained with another --leeway than"):
        cross_validate("DATA", str(runs))
    cross_validate("DATA", str(runs), folds=0, leeway=0)
    assert ran == both(0)


def test_an_overlay_that_was_edited_since_is_refused(road, tmp_path):
    runs, _ = road
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("lr: 0.01")
    files = ["configs/train.yaml", str(overlay)]
    cross_validate("DATA", str(runs), folds=0, config_file=files)
    overlay.write_text("# a comment is no change\nlr: 0.01\n")
    cross_validate("DATA", str(runs), folds=0, config_file=files)
    overlay.write_text("lr: 0.02")
    with pytest.raises(SystemExit, match=r"fold_0 was trained with another content of mine\.yaml"):
        cross_validate("DATA", str(runs), config_file=files)


def test_overlays_of_one_name_count_each(road, tmp_path):
    runs, ran = road
    one, other = (tmp_path / name / "mine.yaml" for name in ("one", "other"))
    for path in (one, other):
        path.parent.mkdir()
        path.write_text("lr: 0.01")
    files = ["configs/train.yaml", str(one), str(other)]
    cross_validate("DATA", str(runs), folds=0, config_file=files)
    cross_validate("DATA", str(runs), folds=0, config_file=files)
    assert ran == both(0)
    one.write_text("lr: 0.02")
    with pytest.raises(SystemExit, match=r"trained with another content of mine\.yaml \(1\)"):
        cross_validate("DATA", str(runs), config_file=files)


def test_an_overlay_may_have_numbers_as_keys(tmp_path):
    overlay, keys = tmp_path / "mine.yaml", []
    for text in ("1: a\nlr: {x: 1, 2: b}\n", "lr: {2: b, x: 1}\n1: a\n", "lr: {2: b, x: 2}\n1: a\n"):
        overlay.write_text(text)
        keys.append(fold_account.asked([str(overlay)], {})["overlays"]["mine.yaml"])
    assert keys[0] == keys[1] != keys[2]


def test_a_content_has_the_key_that_older_versions_gave_it(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("lr: 0.01\nb: [{z: 1, a: 2}]\nc: {10: x, 9: y}\n")
    content = json.dumps({"lr": 0.01, "b": [{"z": 1, "a": 2}], "c": {10: "x", 9: "y"}}, sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()
    assert fold_account.asked([str(overlay)], {})["overlays"] == {"mine.yaml": key}


def test_a_fold_whose_preparation_fails_stays_done(road, monkeypatch):
    """An account without a training would refuse the command that made the fold, and ``choose``."""
    runs, ran = road
    cross_validate("DATA", str(runs), max_epochs=2)

    def refused(files, run_id, overrides, begin=None):
        raise SystemExit("error: the data cannot be prepared")

    monkeypatch.setattr(cross_validation, "run_workflow", refused)
    with pytest.raises(SystemExit, match="cannot be prepared"):
        cross_validate("DATA", str(runs), max_epochs=4)
    cross_validate("DATA", str(runs), max_epochs=2)
    assert ran == both(0, 1, 2)


def test_masks_that_were_replaced_are_no_ground_for_post_processing(road):
    runs, _ = road
    cross_validate("DATA", str(runs))
    (runs / "postprocessing.json").unlink()
    save(drawn(0), runs / "fold_1" / "masks" / "b.nii.gz")
    with pytest.raises(SystemExit, match="fold_1/masks: expected the masks that the cross-validation wrote"):
        cross_validate("DATA", str(runs))


def test_a_plan_that_was_edited_since_is_refused(road):
    runs, ran = road
    cross_validate("DATA", str(runs), folds=0)
    PLAN.replace(mirror_axes=()).save(runs / "plan.json")
    with pytest.raises(SystemExit, match=r"fold_0 was trained with another plan\.json"):
        cross_validate("DATA", str(runs))
    assert ran == both(0)


def test_a_decision_that_a_person_changed_stays(road):
    runs, _ = road
    cross_validate("DATA", str(runs))
    path = runs / "postprocessing.json"
    path.write_text(path.read_text().replace('"adopted": true', '"adopted": false'))
    cross_validate("DATA", str(runs))
    assert Postprocessing.load(path).adopted == ()


def test_what_a_fold_decides_itself_is_refused(road):
    runs, ran = road
    with pytest.raises(SystemExit, match="expected no option fold"):
        cross_validate("DATA", str(runs), fold=1)
    with pytest.raises(SystemExit, match="expected folds out of 0, 1, 2, received 3"):
        cross_validate("DATA", str(runs), folds=3)
    with pytest.raises(SystemExit, match=r"Did you mean --folds\?"):
        cross_validate("DATA", str(runs), num_folds=3)
    (runs / "models").mkdir()
    with pytest.raises(SystemExit, match="which is a run itself"):
        cross_validate("DATA", str(runs))
    assert not ran


def test_folds_that_no_data_set_has_are_refused_before_any_work(road):
    runs, _ = road
    with pytest.raises(SystemExit, match="expected folds out of 0, 1, 2, 3, 4, received 7"):
        cross_validate("DATA", str(runs), folds=7)
    assert not runs.exists()


def test_every_configuration_is_checked_before_the_first_is_trained(road):
    runs, ran = road
    with pytest.raises(SystemExit, match=r"configuration: expected 2d, .* received '3d'"):
        cross_validate("DATA", str(runs), configurations="2d,3d")
    with pytest.raises(SystemExit, match="expected 3d_lowres before 3d_cascade_fullres"):
        cross_validate("DATA", str(runs), configurations="3d_cascade_fullres,3d_lowres")
    assert not ran and not runs.exists()


def test_the_table_counts_cases_and_folds():
    """Fold 0 has two cases, fold 1 one; class b is absent from fold 1."""

    def row(case, name, dice):
        return CaseMetric(case, name, dice, dice, 0.0, 0.0, 1, 1)

    rows = {
        0: [row("x", "a", 0.5), row("x", "b", 0.2), row("y", "a", 0.7), row("y", "b", float("nan"))],
        1: [row("z", "a", 0.9), row("z", "b", float("nan"))],
    }
    lines = [line.split() for line in table(rows).splitlines()[1:]]
    assert lines == [
        ["a", "0.700", "0.750", "+-", "0.150", "0.600", "0.900"],
        ["b", "0.200", "0.200", "0.200", "-"],
        ["mean", "of", "classes", "0.450", "0.650", "+-", "0.250", "0.400", "0.900"],
    ]


def test_other_data_are_refused(road):
    runs, ran = road
    cross_validate("DATA", str(runs), folds=0)
    (runs / "fingerprint.key").write_text("of other data")
    with pytest.raises(SystemExit, match="fold_0 was trained with another data set"):
        cross_validate("ELSEWHERE", str(runs))
    assert ran == both(0)
