"""The cascade: 3d_lowres cross-validated, its masks beside the image at full resolution, both stages at inference."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bundle.facts import PackError, read_run
from mcsc_bundle.choose import choose
from mcsc_bundle.cross_validation import cross_validate
from mcsc_bundle.first_stage import stage_key
from mcsc_bundle.inference import configuration_of
from mcsc_bundle.joined import Configuration, mask_of
from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.store import CaseStore
from mcsc_bundle.suggest import _cases
from mcsc_bundle.trained_run import TrainedRun
from preprocessing.prepare import prepare
from preprocessing.previous import remember_previous
from tests.end_to_end.road import ROOT, SHORT, workflow

SIZE = 56
OPTIONS = {**SHORT, "epoch_length": 1, "max_epochs": 1, "step_seconds": 0.3, "device": "$torch.device('cpu')"}
LOWRES, CASCADE = "3d_lowres", "3d_cascade_fullres"


def scan(folder, name, seed, labeled):
    """A bright ball in noise, in a volume of which a small patch covers a tenth."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(20, 36, 3)
    ball = sum((axis - c) ** 2 for axis, c in zip(np.indices((SIZE,) * 3), centre, strict=True)) < 12**2
    image = rng.normal(0, 1, ball.shape) + 3 * ball + 5
    for part, values in (("images", image.astype(np.float32)), ("labels", ball.astype(np.uint8))):
        if part == "images" or labeled:
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / part / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "balls"
    for seed, name in enumerate(("a", "b", "free")):
        scan(folder, name, seed, labeled=name != "free")
    return folder


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    cross_validate(str(dataset), str(folder), configurations=f"{LOWRES},{CASCADE}", **OPTIONS)
    return folder


def plan_of(runs, name):
    return Plan.load(runs / name / "fold_0" / "plan.json")


def test_the_second_stage_sees_the_mask_of_the_first(runs):
    first, second = plan_of(runs, LOWRES), plan_of(runs, CASCADE)
    assert (first.previous_stage, second.previous_stage) == ("", LOWRES)
    assert second.spacing_mm == (1, 1, 1) and min(first.spacing_mm) > 1
    assert (first.network_channels, second.network_channels) == (1, 2)
    weights = torch.load(runs / CASCADE / "fold_0" / "models" / "model.pt", weights_only=True)
    assert weights["encoder.0.0.weight"].shape[1] == 2


def test_labelled_cases_have_the_mask_of_the_fold_that_left_them_out_and_others_that_of_all(runs):
    """The stored mask of each case is that file, on the plan's grid, which here is the file's."""
    plan = plan_of(runs, CASCADE)
    store = CaseStore(runs / "preprocessed", plan.data_key, stage_key(runs / LOWRES))
    folds = json.loads((runs / LOWRES / "splits.json").read_text())["folds"]
    sources = {
        case: runs / LOWRES / f"fold_{fold}" / "masks" for fold, parts in enumerate(folds) for case in parts["val"]
    }
    assert set(sources) == {"a", "b"}
    for case, folder in (sources | {"free": runs / LOWRES / "next_stage"}).items():
        stored = store.open(case).read_previous((0, 0, 0), (SIZE,) * 3)[0]
        np.testing.assert_array_equal(stored, np.asarray(nib.load(folder / f"{case}.nii.gz").dataobj))


def predict(runs, dataset, masks, **options):
    made = workflow(
        ["inference.json"],
        "infer",
        dataset_dir=str(dataset / "images"),
        output_dir=str(masks),
        run_dir=str(runs),
        **options,
    )
    made.run()
    return {path.name: np.asarray(nib.load(path).dataobj) for path in masks.glob("*.nii.gz")}


def test_new_scans_go_through_both_stages(runs, dataset, tmp_path, monkeypatch):
    seen = []
    before = torch.nn.Module.__call__

    def watched(self, x, *rest):
        if type(self).__name__ == "UNet":
            seen.append(x.shape[1])
        return before(self, x, *rest)

    monkeypatch.setattr(torch.nn.Module, "__call__", watched)
    masks = predict(runs / CASCADE, dataset, tmp_path / "masks")
    assert set(masks) == {"a.nii.gz", "b.nii.gz", "free.nii.gz"}
    assert all(mask.shape == (SIZE,) * 3 for mask in masks.values())
    assert set(seen) == {1, 2}  # networks of the first stage, networks of the second


def test_masks_follow_the_first_stage(runs, dataset, tmp_path):
    """Exchanged for another one, it changes what the second stage predicts: its channel is read."""
    case = workflow(
        ["inference.json"],
        "infer",
        dataset_dir=str(dataset / "images"),
        output_dir=str(tmp_path),
        run_dir=str(runs / CASCADE / "fold_0"),
    )
    transform = case.parser.get_parsed_content("preprocessing")
    files = str(dataset / "images" / "a.nii.gz")
    full = tmp_path / "full.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((SIZE,) * 3, np.uint8), np.eye(4)), full)
    given = transform({"image": files, "previous": str(full)})["image"]
    assert given.shape == (2, SIZE, SIZE, SIZE) and bool((given[1] == 1).all())
    made = transform({"image": files})["image"]
    torch.testing.assert_close(made[0], given[0])
    assert set(made[1].unique().tolist()) <= {0.0, 1.0} and not torch.equal(made[1], given[1])


def test_a_fold_is_scored_with_the_mask_of_networks_that_did_not_see_the_case_either(runs, dataset):
    for fold, parts in enumerate(json.loads((runs / CASCADE / "splits.json").read_text())["folds"]):
        network = configuration_of(TrainedRun(runs / CASCADE / f"fold_{fold}"), "cpu")
        for case in parts["val"]:
            apart = runs / LOWRES / f"fold_{fold}" / "masks" / f"{case}.nii.gz"
            found = network.probabilities(str(dataset / "images" / f"{case}.nii.gz"), str(apart))
            mask = np.asarray(nib.load(runs / CASCADE / f"fold_{fold}" / "masks" / f"{case}.nii.gz").dataobj)
            np.testing.assert_array_equal(mask_of(found, network.plan)[0].numpy(), mask)


def test_both_stages_and_their_pair_are_compared(runs, dataset, tmp_path, monkeypatch):
    """The second stage of a fold sees masks by networks that did not know the case, and loads no others."""
    given, predicted = {}, Configuration.probabilities

    def watched(self, files, previous=None):
        if self.plan.previous_stage:
            given[Path(files[0]).name] = previous
        return predicted(self, files, previous)

    monkeypatch.setattr(Configuration, "probabilities", watched)
    monkeypatch.setattr(Configuration, "mask", lambda self, files: pytest.fail("the first stage was asked"))
    choose(str(runs))
    monkeypatch.undo()
    folds = json.loads((runs / LOWRES / "splits.json").read_text())["folds"]
    assert given == {
        f"{case}.nii.gz": runs / LOWRES / f"fold_{fold}" / "masks" / f"{case}.nii.gz"
        for fold, parts in enumerate(folds)
        for case in parts["val"]
    }
    best = json.loads((runs / "best.json").read_text())
    assert {tuple(each["configurations"]) for each in best["candidates"]} == {(LOWRES,), (CASCADE,), (CASCADE, LOWRES)}
    assert len(predict(runs, dataset, tmp_path / "masks")) == 3


def test_an_account_is_there_before_the_first_mask(runs, monkeypatch):
    shutil.rmtree(runs / "pairs", ignore_errors=True)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mcsc_bundle.choose.write_like", killed)
    with pytest.raises(SystemExit, match="130"):
        choose(str(runs))
    monkeypatch.undo()
    assert list((runs / "pairs").rglob("summary.csv"))
    choose(str(runs))


def test_networks_of_the_first_stage_are_loaded_for_a_mask_alone(runs, dataset, monkeypatch):
    loaded, network = [], TrainedRun.network.fget
    monkeypatch.setattr(TrainedRun, "network", property(lambda self: loaded.append(self.folder.name) or network(self)))
    both = configuration_of(TrainedRun(runs / CASCADE / "fold_1"), "cpu")
    image = str(dataset / "images" / "a.nii.gz")
    both.probabilities(image, str(runs / LOWRES / "fold_0" / "masks" / "a.nii.gz"))
    assert len(loaded) == 1
    for _ in range(2):
        both.probabilities(image)
    assert len(loaded) == 2


def test_a_trained_second_stage_keeps_its_first(runs, dataset, tmp_path):
    """Another one, or one that was trained on since, gives other masks than those that it learnt to refine."""
    run = tmp_path / "run"
    shutil.copytree(runs / CASCADE / "fold_0", run)
    shutil.copytree(runs / LOWRES, tmp_path / "same")
    plan = Plan.load(run / "plan.json")
    assert remember_previous(run, plan, str(tmp_path / "same")) == tmp_path / "same"  # moved, say
    weights = tmp_path / "same" / "fold_0" / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, weights)
    for given in (None, str(tmp_path / "same")):
        with pytest.raises(PlanError, match="expected the networks whose masks trained"):
            remember_previous(run, plan, given)


@pytest.fixture
def copy(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "RUNS")
    return tmp_path / "RUNS"


def weights_of(runs):
    return {path: path.read_bytes() for path in sorted(runs.glob("*/fold_*/models/model.pt"))}


def test_a_first_stage_is_not_trained_on_under_its_second(dataset, copy, capsys):
    """The longer training is refused before anything is lost: the command that made both stages still finds them done."""
    before = weights_of(copy)
    for names in (f"{LOWRES},{CASCADE}", LOWRES):
        with pytest.raises(
            SystemExit, match=r"3d_lowres/fold_0 to stay as it is, whose masks trained .*after 1\. Give"
        ):
            cross_validate(str(dataset), str(copy), configurations=names, **{**OPTIONS, "max_epochs": 2})
    cross_validate(str(dataset), str(copy), configurations=f"{LOWRES},{CASCADE}", **OPTIONS)
    assert weights_of(copy) == before and "To choose among them" in capsys.readouterr().out
    (copy / LOWRES / "fold_0" / "cross_validation.json").unlink()  # as the remedy for replaced scores says
    cross_validate(str(dataset), str(copy), configurations=LOWRES, **OPTIONS)
    assert weights_of(copy) == before
    cross_validate(str(dataset), str(copy), 0, configurations=CASCADE, **{**OPTIONS, "max_epochs": 2})
    changed = [path for path, content in weights_of(copy).items() if content != before[path]]
    assert changed == [copy / CASCADE / "fold_0" / "models" / "model.pt"]


def test_a_first_stage_that_was_trained_on_since_is_refused_everywhere(dataset, copy):
    TrainedRun(copy / CASCADE).previous  # noqa: B018
    weights = copy / LOWRES / "fold_1" / "models" / "model.pt"
    torch.save({name: value + 1 for name, value in torch.load(weights, weights_only=True).items()}, weights)
    for refused in (lambda: choose(str(copy)), lambda: TrainedRun(copy / CASCADE).previous):
        with pytest.raises(SystemExit, match=r"fold_0/previous\.json: expected the networks whose masks trained"):
            refused()
    with pytest.raises(
        SystemExit, match=r"fold_0 was trained with another --previous \(or its networks were trained on"
    ):
        cross_validate(str(dataset), str(copy), configurations=CASCADE, **OPTIONS)


def test_stored_masks_are_found_after_a_move(copy, tmp_path):
    copy.rename(tmp_path / "elsewhere")
    run = tmp_path / "elsewhere" / CASCADE / "fold_0"
    labeled, unlabeled, store = _cases(run, Plan.load(run / "plan.json").data_key, None)
    assert (len(labeled), unlabeled) == (2, ["free"])
    assert store.open("free").read_previous((0, 0, 0), (SIZE,) * 3).shape == (1, SIZE, SIZE, SIZE)
    for path in store.folder.glob("free.previous.*"):
        path.unlink()
    with pytest.raises(SystemExit, match="repeat its command, which stores them again"):
        _cases(run, Plan.load(run / "plan.json").data_key, None)


def test_other_labels_of_the_first_stage_are_refused(runs, tmp_path):
    shutil.copytree(runs / LOWRES, tmp_path / "first")
    plan = plan_of(runs, CASCADE)
    for path in (tmp_path / "first").glob("fold_*/plan.json"):
        first = Plan.load(path)
        first.replace(labels={name: 2 * value for name, value in first.labels.items()}).save(path)
    with pytest.raises(PlanError, match="which differ in labels"):
        remember_previous(tmp_path / "run", plan, str(tmp_path / "first"))


@pytest.mark.slow
def test_two_processes_train_both_stages(dataset, runs, tmp_path):
    flags = [f"--{name}={value}" for name, value in OPTIONS.items()]
    ended = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            "-m", "mcsc_bundle", "cross_validate", str(dataset), str(tmp_path), f"--configurations={LOWRES},{CASCADE}", *flags,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    for name in (LOWRES, CASCADE):
        assert (tmp_path / name / "cross_validation.csv").read_text().splitlines()[0].startswith("fold,case")
    assert {path.name for path in (tmp_path / LOWRES / "next_stage").glob("*.nii.gz")} == {"free.nii.gz"}


def test_a_cascade_is_not_packed(runs):
    with pytest.raises(PackError, match="received a cascade, which needs those of 3d_lowres too"):
        read_run(runs / CASCADE / "fold_0")


def test_a_second_stage_without_the_first_is_refused(dataset, runs, tmp_path):
    asked = {"configuration": CASCADE, "step_seconds": 0.3, "device": "cpu", "workers": 1}
    with pytest.raises(PlanError, match="expected previous to name the runs whose masks 3d_cascade_fullres refines"):
        prepare(str(dataset), str(tmp_path / "run"), **asked)
    with pytest.raises(PlanError, match="received it with 2d"):
        prepare(str(dataset), str(tmp_path / "run"), **{**asked, "configuration": "2d"}, previous=str(runs / LOWRES))
    with pytest.raises(PlanError, match=r"received .*nowhere, which is none"):
        prepare(str(dataset), str(tmp_path / "run"), previous=str(tmp_path / "nowhere"), **asked)
    assert not (tmp_path / "run").exists()  # nothing was measured yet
    with pytest.raises(PlanError, match=r"expected runs of 3d_lowres, received .*\(3d_cascade_fullres"):
        prepare(str(dataset), str(tmp_path / "run"), previous=str(runs / CASCADE), **asked)
    (runs / CASCADE / "fold_0" / "previous.json").rename(tmp_path / "previous.json")
    try:
        with pytest.raises(SystemExit, match="expected the runs of 3d_lowres"):
            predict(runs / CASCADE / "fold_0", dataset, tmp_path / "masks")
    finally:
        (tmp_path / "previous.json").rename(runs / CASCADE / "fold_0" / "previous.json")


def test_a_first_stage_that_trained_on_test_cases_is_refused(dataset, runs, tmp_path):
    (tmp_path / "split.json").write_text(json.dumps({"labeled": ["a"], "unlabeled": ["free"], "test": ["b"]}))
    with pytest.raises(PlanError, match="to have trained without the test cases, received b"):
        prepare(
            str(dataset), str(tmp_path / "run"), split_file=str(tmp_path / "split.json"), previous=str(runs / LOWRES),
            configuration=CASCADE, step_seconds=0.3, device="cpu", workers=1,
        )  # fmt: skip
