"""The table's bookkeeping; the trainings are replaced by a file of scores."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp

from benchmarks import label_efficiency
from benchmarks.acdc_splits import split as acdc_split
from benchmarks.label_efficiency import main
from benchmarks.label_table import missed_per_class, summary
from benchmarks.tune_splits import tune_splits
from benchmarks.voxel_distances import voxel_distances
from tests.plans import make_plan
from tests.preprocessing import scans

SCORES = {"supervised": 0.80, "mcsc": 0.84}


@pytest.fixture
def trainings(monkeypatch):
    """Runs that were started, as (methods' config, overrides). ``mcsc`` without contrast fails."""
    started = []

    def run_workflow(files, run_id, overrides):
        if run_id != "evaluate":
            started.append(overrides)
            return
        if overrides.get("method#contrast_weight") == 0:
            raise RuntimeError("out of memory")
        assert (overrides["mirror"], overrides["postprocess"]) == (False, False)
        method = "supervised" if any("supervised" in file for file in files) else "mcsc"
        rows = ["case,class_name,dice,hd95_mm"]
        rows += [f"case_{n},LV,{SCORES[method] + 0.01 * n + 0.001 * overrides['seed']},2.0" for n in range(3)]
        folder = Path(overrides["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.csv").write_text("\n".join(rows))

    monkeypatch.setattr(label_efficiency, "run_workflow", run_workflow)
    monkeypatch.setattr(label_efficiency, "voxel_distances", lambda *_: {"hd95_voxels": {"LV": 2.0}})
    monkeypatch.setattr(label_efficiency, "patients_of", lambda _, cases: {case: case for case in cases})
    return started


def run(monkeypatch, folder, *words):
    command = ["label_efficiency", "--dataset_dir", "nowhere", "--output_dir", str(folder), "--seeds", "2", *words]
    monkeypatch.setattr(sys, "argv", command)
    return main()


def test_the_table_has_gain_spread_and_is_resumed(tmp_path, monkeypatch, trainings, capsys):
    words = ("--methods", "supervised,mcsc", "--budgets", "4")
    assert run(monkeypatch, tmp_path, *words) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["method"] for row in rows] == ["supervised", "mcsc"]
    assert rows[0]["dice"] == pytest.approx(81.05)  # cases 80, 81, 82 on seed 0; 0.1 more on seed 1
    assert rows[1]["gain"] == pytest.approx(4.0)
    assert rows[1]["sd"] == pytest.approx(0.1 / 2**0.5)
    assert len(trainings) == 4
    assert run(monkeypatch, tmp_path, *words) == 0
    assert len(trainings) == 4, "runs that are done are not repeated"


def test_results_of_another_machine_need_no_runs(tmp_path, monkeypatch, trainings):
    words = ("--methods", "supervised", "--budgets", "4", "--results", str(tmp_path / "results"))
    run(monkeypatch, tmp_path / "here", *words)
    assert len(trainings) == 2
    assert run(monkeypatch, tmp_path / "there", *words) == 0
    assert len(trainings) == 2
    assert run(monkeypatch, tmp_path / "there", *words, "--seeds", "2,") == 0
    assert [each["seed"] for each in trainings[2:]] == [2]


def test_a_result_of_other_settings_is_no_result_of_this_table(tmp_path, monkeypatch, trainings):
    words = ("--methods", "supervised", "--budgets", "4")
    run(monkeypatch, tmp_path, *words)
    with pytest.raises(SystemExit, match="max_epochs differ"):
        run(monkeypatch, tmp_path, *words, "--iterations", "50")


def test_a_result_of_another_data_set_is_refused_and_one_of_other_code_is_named(
    tmp_path, monkeypatch, trainings, capsys
):
    words = ("--methods", "supervised", "--budgets", "4")
    run(monkeypatch, tmp_path, *words)
    kept = tmp_path / "supervised_4_0.json"
    result = json.loads(kept.read_text())
    kept.write_text(json.dumps(result | {"code": "older"}))
    assert run(monkeypatch, tmp_path, *words) == 0
    assert "supervised_4_0.json was made by code older" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="of data set other, received one of nowhere"):
        run(monkeypatch, tmp_path, *words, "--dataset_dir", "other")


def test_a_result_of_a_split_that_has_changed_is_refused(tmp_path, monkeypatch, trainings):
    split = tmp_path / "three.json"
    split.write_text("{}")
    words = ("--methods", "supervised", "--splits", f"3={split}")
    run(monkeypatch, tmp_path, *words)
    assert run(monkeypatch, tmp_path, *words) == 0
    split.write_text('{"labeled": []}')
    with pytest.raises(SystemExit, match=r"expected three\.json as .* was made with, received a changed one"):
        run(monkeypatch, tmp_path, *words)


def test_a_variant_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, trainings, capsys):
    variant = 'no contrast={"method#contrast_weight": 0}'
    assert run(monkeypatch, tmp_path, "--methods", "mcsc", "--budgets", "4", "--variant", variant) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["failed"] == ["no_contrast_4_0: out of memory", "no_contrast_4_1: out of memory"]
    assert [row["seeds"] for row in result["rows"]] == [2]


def test_a_variant_is_one_of_the_method_it_names_first(tmp_path, monkeypatch, trainings, capsys):
    variant = 'supervised EMA={"method#decay": 0.99}'
    assert run(monkeypatch, tmp_path, "--methods", "mcsc", "--budgets", "4", "--variant", variant) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    dice = {row["method"]: row["dice"] for row in rows}
    assert dice["mcsc"] == pytest.approx(85.05) and dice["supervised EMA"] == pytest.approx(81.05)
    assert [each.get("method#decay") for each in trainings] == [None, 0.99] * 2


def test_splits_by_file_take_the_place_of_drawn_ones(tmp_path, monkeypatch, trainings):
    words = ("--methods", "mcsc", "--upper_bound", "--splits", "3=three.json,all=every.json")
    assert run(monkeypatch, tmp_path, *words) == 0
    assert [(each["split_file"], each["num_labeled"], each["seed"]) for each in trainings] == [
        ("three.json", None, 0),
        ("three.json", None, 1),
        ("every.json", None, 0),
        ("every.json", None, 1),
    ]


def test_an_ablation_over_splits_is_compared_with_its_own_baseline(tmp_path, monkeypatch, trainings, capsys):
    words = ("--methods", "supervised,mcsc", "--splits", "3=split_{seed}.json", "--baseline", "mcsc")
    assert run(monkeypatch, tmp_path, *words) == 0
    assert sorted({each["split_file"] for each in trainings}) == ["split_0.json", "split_1.json"]
    output = capsys.readouterr().out
    rows = json.loads(output.splitlines()[-1])["rows"]
    assert rows[0]["gain"] == pytest.approx(-4.0) and "gain" not in rows[1]
    assert "gain over mcsc" in output
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, *words[:-1], "msc")
    assert "expected one of mcsc, supervised, received msc" in capsys.readouterr().err


def test_a_budget_without_a_file_is_refused(tmp_path, monkeypatch, trainings, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "--methods", "mcsc", "--upper_bound", "--splits", "3=three.json")
    assert "expected a file for all" in capsys.readouterr().err


def test_the_paired_test_needs_the_same_seed():
    def result(method, seed):
        cases = {"a": 0.5 + 0.1 * seed, "b": 0.6}
        return {"method": method, "budget": 4, "seed": seed, "dice": 55.0, "cases": cases, "train_seconds": 60}

    rows = summary([result("supervised", 0), result("mcsc", 1)])
    assert "gain" not in rows[1]


def test_acdc_is_split_by_patient():
    train = [f"patient{patient}_frame{frame}" for patient in ("099", "038", "007") for frame in ("01", "02")]
    parts = acdc_split(train, ["patient002_frame01"], 1)
    assert parts["labeled"] == ["patient099_frame01", "patient099_frame02"]
    assert parts["unlabeled"] == train[2:]
    assert parts["test"] == ["patient002_frame01"]
    assert acdc_split(train, [], None)["labeled"] == train


def test_distances_in_voxels_leave_the_spacing_out(tmp_path):
    data, run_dir = scans.decathlon(tmp_path / "data", ["a"]), tmp_path / "run"
    moved = scans.mask()
    moved[0, 0], moved[0, 1] = 0, 1  # the next row, 2 mm away
    scans.write(run_dir / "masks" / "a.nii.gz", moved)
    make_plan().save(run_dir / "plan.json")
    assert voxel_distances(run_dir, str(data), ["a"]) == {
        "hd95_voxels": {"left": 1.0, "right": 0.0},
        "asd_voxels": {"left": 1.0, "right": 0.0},
    }


def test_seeds_and_cases_are_tested_apart():
    """Gains of 2, 2 and 5 points on seeds of which two share a case."""

    def run(method, seed, cases):
        return {"method": method, "budget": 4, "seed": seed, "dice": 50.0, "cases": cases, "train_seconds": 60}

    pairs = [({"a": 0.52, "b": 0.53}, 0), ({"a": 0.52, "c": 0.53}, 1), ({"d": 0.55, "e": 0.56, "only here": 0.1}, 2)]
    base = [({"a": 0.50, "b": 0.51}, 0), ({"a": 0.50, "c": 0.51}, 1), ({"d": 0.50, "e": 0.51}, 2)]
    results = [run("supervised", seed, cases) for cases, seed in base] + [
        run("mcsc", seed, cases) for cases, seed in pairs
    ]
    row = summary(results)[1]
    assert row["gain"] == pytest.approx(3.0) and row["gain_sd"] == pytest.approx(3**0.5)
    assert row["p_seeds"] == pytest.approx(ttest_1samp([2, 2, 5], 0).pvalue)
    assert row["p_patients"] == pytest.approx(ttest_1samp([2, 2, 2, 5, 5], 0).pvalue)  # case a once
    assert summary(results[:1])[0]["sd"] is None, "one seed has no spread"


def test_scans_of_one_patient_are_one_in_the_test_over_patients():
    """Differences of 1 and 3, 4 and 6, 9: means 2, 5, 9 of three patients, not five cases."""

    def run(method, dice):
        patients = dict(zip("abcde", ("p", "p", "q", "q", "r"), strict=True))
        cases = dict(zip("abcde", dice, strict=True))
        return {
            "method": method,
            "budget": 4,
            "seed": 0,
            "dice": 50.0,
            "cases": cases,
            "patients": patients,
            "train_seconds": 60,
        }

    rows = summary([run("supervised", [0.5] * 5), run("mcsc", [0.51, 0.53, 0.54, 0.56, 0.59])])
    assert rows[1]["p_patients"] == pytest.approx(ttest_1samp([2, 5, 9], 0).pvalue)


def test_missed_structures_are_counted_beside_the_distances(tmp_path):
    lines = ["case,class_name,dice,hd95_mm", "a,RV,0.0,inf", "b,RV,0.8,3.0", "c,RV,nan,nan", "a,LV,0.9,2.0"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    assert missed_per_class(tmp_path / "metrics.csv") == {"RV": 1, "LV": 0}


def test_settings_are_chosen_on_patients_the_tables_do_not_test():
    groups = {f"case_{n:02}": f"patient_{n // 2}" for n in range(40)}
    tested = {"case_00", "case_07"}
    splits = tune_splits(groups, tested, number=2, labeled=3, test=5)
    for split in splits:
        patients = [{groups[name] for name in split[part]} for part in ("labeled", "unlabeled", "test")]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 20
        assert patients[2].isdisjoint({groups[name] for name in tested})
        assert (len(split["labeled"]), len(split["test"])) == (4, 6)  # whole patients
    assert splits[0]["test"] == splits[1]["test"]
    assert set(splits[0]["labeled"]).isdisjoint(splits[1]["labeled"])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--iterations", "4"], "--iterations: expected a multiple of 25, the length of an epoch, received 4"),
        (["--overrides", '{"step_secnds": 1}'], "step_secnds"),
        (["--overrides", "{max_epochs:1}"], "--overrides: expected a JSON object"),
        (["--overrides", "[1]"], "--overrides: expected a JSON object"),
        (["--overrides", '{"epoch_length": 20}', "--iterations", "50"], "expected a multiple of 20"),
        (["--budgets", "a"], "--budgets: expected whole numbers"),
        (["--overrides", '{"num_test": 3}'], "has 3 labelled cases"),
        (["--variant", 'no contrast={"method#contrast_wieght": 0}'], "no contrast: .*contrast_wieght"),
        (["--seeds", "a"], "--seeds: expected whole numbers"),
        (
            ["--budgets", "1,3", "--num_test", "1"],
            "has 3 labelled cases; expected at least 3 to train .* and 1 to test",
        ),
    ],
)
def test_what_cannot_be_done_is_told_before_any_training(words, answer, tmp_path, monkeypatch, trainings, capsys):
    data = scans.decathlon(tmp_path / "data", ["a", "b", "c"])
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "out", "--budgets", "1", "--num_test", "1", "--dataset_dir", str(data), *words)
    assert re.search(answer, capsys.readouterr().err) and not trainings


def test_what_is_done_and_what_a_file_names_need_no_labels(tmp_path, monkeypatch, trainings):
    data = scans.decathlon(tmp_path / "data", ["a", "b", "c"])
    words = ("--methods", "mcsc", "--dataset_dir", str(data), "--budgets", "2", "--num_test", "1")
    assert run(monkeypatch, tmp_path / "out", *words) == 0
    for file in (data / "labelsTr").iterdir():
        file.unlink()
    assert run(monkeypatch, tmp_path / "out", *words) == 0
    named = '{"split_file": "split.json", "num_labeled": null, "num_test": null}'
    assert run(monkeypatch, tmp_path / "named", *words, "--overrides", named) == 0
    assert len(trainings) == 4


def test_an_epoch_has_the_length_that_overrides_give_it(tmp_path, monkeypatch, trainings):
    words = ("--methods", "mcsc", "--budgets", "1", "--overrides", '{"epoch_length": 20}', "--iterations", "60")
    run(monkeypatch, tmp_path, *words)
    assert [(each["epoch_length"], each["max_epochs"]) for each in trainings] == [(20, 3), (20, 3)]


def test_a_run_that_ends_with_a_sentence_leaves_the_others(tmp_path, monkeypatch, capsys):
    def failing(files, run_id, overrides):
        raise SystemExit("error: no space is left")

    monkeypatch.setattr(label_efficiency, "workflow_of", failing)
    with pytest.raises(SystemExit, match="no run succeeded"):
        run(monkeypatch, tmp_path, "--methods", "supervised", "--budgets", "4")
    assert "1/2 supervised_4_0: error: no space is left\n2/2" in capsys.readouterr().err.replace("\r", "")
    assert "Traceback" in (tmp_path / "supervised_4_0.error.txt").read_text()


def documented_commands():
    """Of the indented blocks in ``docs/`` those that read kept results."""
    for document in ("benchmarks.md", "method.md", "recipe.md"):
        text = (label_efficiency.ROOT / "docs" / document).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("    ") and "benchmarks.label_efficiency" in line and "--results benchmarks/" in line:
                yield line.replace("S=benchmarks/splits;", "").replace("$S/", "benchmarks/splits/")


@pytest.mark.parametrize("command", documented_commands())
def test_commands_of_the_documents_make_their_tables_from_the_kept_results(command, tmp_path, monkeypatch, capsys):
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "benchmarks.label_efficiency"]
    monkeypatch.chdir(label_efficiency.ROOT)
    monkeypatch.setattr(label_efficiency, "run_workflow", lambda *_: pytest.fail("a run is missing"))
    monkeypatch.setattr(sys, "argv", [*words[2:], "--output_dir", str(tmp_path)])
    assert main() == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == []
