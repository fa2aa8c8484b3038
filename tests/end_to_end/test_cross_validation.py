"""Every fold trained and scored, post-processing decided, the folds averaged on new scans: a command each."""

import csv
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from mcsc_bundle.choose import choose
from mcsc_bundle.cross_validation import cross_validate
from tests.end_to_end.road import ROOT, SHORT, small_dataset, workflow

OPTIONS = {**SHORT, "epoch_length": 1, "max_epochs": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data") / "hearts", labeled=2, unlabeled=1)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross validation")
    cross_validate(str(dataset), str(folder), **OPTIONS)
    return folder


def rows(folder):
    with (folder / "cross_validation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_labelled_case_is_scored_by_the_fold_that_left_it_out(runs):
    split = json.loads((runs / "splits.json").read_text())
    scored = {(int(row["fold"]), row["case"]) for row in rows(runs)}
    assert scored == {(number, case) for number, fold in enumerate(split["folds"]) for case in fold["val"]}
    assert {case for _, case in scored} == set(split["labeled"]) and len(split["folds"]) == 2
    assert not (runs / "fold_0" / "preprocessed").exists()  # one cache for all
    plans = {(folder / "plan.json").read_bytes() for folder in (runs, runs / "fold_0", runs / "fold_1")}
    assert len(plans) == 1


def test_folds_that_are_done_are_skipped(dataset, runs):
    before = {path: path.stat().st_mtime_ns for path in runs.glob("fold_*/**/*") if path.is_file()}
    cross_validate(str(dataset), str(runs), **OPTIONS)
    assert before == {path: path.stat().st_mtime_ns for path in runs.glob("fold_*/**/*") if path.is_file()}


def test_the_folds_predict_together(dataset, runs, tmp_path):
    predict(dataset, runs, tmp_path)


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(dataset, runs, tmp_path):
    flags = [f"--{name}={value}" for name, value in OPTIONS.items()]
    ended = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            "-m", "mcsc_bundle", "cross_validate", str(dataset), str(tmp_path / "runs"), *flags,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    one, two = (
        {(row["fold"], row["case"], row["class_name"]): float(row["dice"]) for row in rows(f)}
        for f in (runs, tmp_path / "runs")
    )
    assert two == pytest.approx(one, abs=0.02) and (tmp_path / "runs" / "postprocessing.json").exists()


@pytest.fixture(scope="module")
def chosen(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("configurations")
    cross_validate(str(dataset), str(folder), configurations="2d,3d_fullres", **OPTIONS)
    choose(str(folder))
    return folder


def test_the_best_configuration_is_chosen_and_predicts(dataset, chosen, tmp_path):
    best = json.loads((chosen / "best.json").read_text())
    names = [" + ".join(each["configurations"]) for each in best["candidates"]]
    assert sorted(names) == ["2d", "2d + 3d_fullres", "3d_fullres"] and best["cases"] == 2
    means = [np.mean(list(each["dice"].values())) for each in best["candidates"]]
    assert means == sorted(means, reverse=True) and best["candidates"][0]["configurations"] == best["configurations"]
    assert len(list(chosen.glob("pairs/*/fold_*/*.nii.gz"))) == 2  # each left-out case by the pair
    assert not list(chosen.glob("*/preprocessed")) and (chosen / "preprocessed").is_dir()  # shared
    predict(dataset, chosen, tmp_path)


def test_a_pair_predicts_the_mean_of_both_on_the_scans_own_grid(dataset, chosen, tmp_path):
    single = {}
    for name in ("2d", "3d_fullres"):
        predict(dataset, chosen / name, tmp_path / name, save_probabilities=True, postprocess=False)
        (path,) = (tmp_path / name).glob("*_probabilities.nii.gz")
        single[name] = np.asarray(nib.load(path).dataobj)
    best = json.loads((chosen / "best.json").read_text())
    (chosen / "best.json").write_text(json.dumps({**best, "configurations": ["2d", "3d_fullres"]}))
    mask = predict(dataset, chosen, tmp_path / "pair", postprocess=False)
    assert np.array_equal(mask, ((single["2d"] + single["3d_fullres"]) / 2).argmax(-1))


def predict(dataset, run_dir, output_dir, **options):
    folders = {"dataset_dir": str(dataset / "imagesTs"), "output_dir": str(output_dir), "run_dir": str(run_dir)}
    workflow(["inference.json"], "infer", **folders, **options).run()
    (image_file,) = (dataset / "imagesTs").glob("*.nii.gz")
    mask = nib.load(output_dir / image_file.name)
    assert mask.shape == nib.load(image_file).shape and set(np.unique(mask.dataobj)) <= {0, 1, 2, 3}
    return np.asarray(mask.dataobj)


def test_one_labelled_patient_is_told_before_anything_is_trained(tmp_path):
    alone = small_dataset(tmp_path / "one", labeled=1, unlabeled=1)
    with pytest.raises(SystemExit, match="labelled scans of two patients or more to cross-validate"):
        cross_validate(str(alone), str(tmp_path / "runs"), **OPTIONS)
    assert not (tmp_path / "runs").exists()  # nothing was measured


def test_the_folder_of_several_runs_is_not_evaluated_as_one(dataset, runs):
    made = workflow(["train.yaml", "evaluate.yaml"], dataset_dir=str(dataset), output_dir=str(runs), fold=1, **OPTIONS)
    with pytest.raises(SystemExit, match="expected the folder of one training to evaluate"):
        made.parser.get_parsed_content("trained")


def test_a_fold_that_was_evaluated_on_other_cases_is_told(dataset, runs):
    path = runs / "fold_0" / "metrics.csv"
    before = path.read_text()
    own = next(csv.DictReader(before.splitlines()))["case"]
    path.write_text(before.replace(own, "a_test_case"))
    try:
        with pytest.raises(SystemExit, match=r"that fold 0 left out .* received those of others \(a_test_case\)"):
            cross_validate(str(dataset), str(runs), **OPTIONS)
    finally:
        path.write_text(before)


def test_a_labelled_scan_that_cannot_be_read_costs_its_fold_the_scores_alone(tmp_path):
    data = small_dataset(tmp_path / "hearts", labeled=3, unlabeled=0)
    bad = next((data / "imagesTr").glob("*.nii.gz"))
    image = nib.load(bad)
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), bad)
    cross_validate(str(data), str(tmp_path / "runs"), **OPTIONS)
    assert len({row["case"] for row in rows(tmp_path / "runs")}) == 2
    assert (tmp_path / "runs" / "postprocessing.json").exists()
