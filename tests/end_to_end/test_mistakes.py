"""What users mistype and interrupt, by the commands they type."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.end_to_end.road import ROOT, command, small_dataset
from tests.plans import make_plan

TRAIN = {"config_file": "configs/train.yaml", "epoch_length": 1, "max_epochs": 2, "workers": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data") / "hearts")


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs inherit that it is ignored
    )  # fmt: skip


def wait_for(path, process):
    deadline = time.monotonic() + 200
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def test_misspelt_options_are_refused_before_any_work(dataset, tmp_path):
    result = command(
        "training",
        **TRAIN,
        dataset_dir=dataset,
        output_dir=tmp_path / "run",
        num_labelled=2,
        **{"train#trainer#ampp": 1},
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr and not (tmp_path / "run").exists()
    expected = "error: expected options that exist, received --num_labelled, --train#trainer#ampp"
    assert result.stderr.splitlines()[-1].startswith(expected)
    assert "Did you mean --num_labeled, --train#trainer#amp?" in result.stderr


@pytest.mark.slow
def test_misspelt_options_of_inference_are_refused_before_any_work(dataset, tmp_path):
    options = {"dataset_dir": dataset / "imagesTs", "output_dir": tmp_path / "masks", "rundir": tmp_path}
    result = command(config_file="configs/inference.json", **options)
    assert result.returncode == 1 and "Traceback" not in result.stderr and not (tmp_path / "masks").exists()
    assert "received --rundir, which nothing would use. Did you mean --run_dir?" in result.stderr


@pytest.mark.slow
def test_without_a_run_the_option_that_names_it_is_told(dataset, tmp_path):
    options = {"dataset_dir": dataset, "output_dir": tmp_path / "run"}
    result = command("evaluate", config_file="['configs/train.yaml','configs/evaluate.yaml']", **options)
    assert result.returncode == 1 and "Traceback" not in result.stderr and not (tmp_path / "run").exists()
    assert "error: --output_dir: expected the folder of a run" in result.stderr


@pytest.mark.slow
def test_a_training_ends_with_commands_that_work(dataset, tmp_path):
    run, masks = tmp_path / "a run", tmp_path / "masks"
    ended = command("training", **TRAIN, dataset_dir=dataset, output_dir=run, num_labeled=1, num_test=2)
    assert ended.returncode == 0, ended.stderr
    assert f"Done after 2 epochs. The network: {run / 'models' / 'model.pt'}" in ended.stdout
    infer, evaluate = re.findall(r"python (-m monai\.bundle run .*)", ended.stdout)
    infer = infer.replace("NEW", str(dataset / "imagesTs")).replace("MASKS", str(masks))
    for line in (infer, evaluate):
        process = start(*shlex.split(line))
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    assert len(list(masks.glob("*.nii.gz"))) == 1 and len(list((run / "masks").glob("*.nii.gz"))) == 2
    assert (run / "metrics.csv").exists() and not (run / "validation.csv").exists()


@pytest.mark.slow
def test_ctrl_c_in_a_training_is_no_error_and_costs_one_epoch(dataset, tmp_path):
    def words(run, epochs):
        options = {
            **TRAIN,
            "dataset_dir": dataset,
            "output_dir": tmp_path / run,
            "max_epochs": epochs,
            "epoch_length": 4,
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return ["-m", "monai.bundle", "run", "training", *flags]

    assert start(*words("whole", 4)).wait(300) == 0
    stopped = start(*words("stopped", 4))
    wait_for(tmp_path / "stopped" / "models" / "checkpoint.pt", stopped)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=300)
    assert stopped.returncode == 130 and "Traceback" not in out + err, out + err
    assert re.search(r"Stopped in epoch \d; the same command goes on after epoch \d, from .*checkpoint\.pt", err)
    assert start(*words("stopped", 4)).wait(300) == 0
    one, other = (
        torch.load(tmp_path / name / "models" / "model.pt", weights_only=True) for name in ("whole", "stopped")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_in_preprocessing_is_no_error_and_costs_the_cases_in_work(tmp_path, workers):
    dataset = small_dataset(tmp_path / "data", labeled=20, unlabeled=100)
    words = ["-m", "preprocessing", str(dataset), "--output_dir", str(tmp_path / "run"), "--workers", str(workers)]
    stopped = start(*words)
    wait_for(tmp_path / "run" / "preprocessed", stopped)
    os.killpg(stopped.pid, signal.SIGINT)  # a terminal sends it to the workers, too
    out, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 130 and "Traceback" not in out + err, out + err
    assert "the same command goes on" in err
    again = start(*words)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0 and "Traceback" not in out + err, out + err


def test_weights_that_learnt_a_case_to_be_scored_are_no_start(tmp_path):
    from mcsc_bundle.trained import save_trained
    from preprocessing.dataset import read_dataset
    from preprocessing.prepare import USER_ERRORS, prepare

    data = small_dataset(tmp_path / "hearts", labeled=2, unlabeled=1)
    dataset = read_dataset(data)
    names = [case.name for case in dataset.cases if case.label is not None]
    save_trained(tmp_path / "other" / "models", make_plan("3d", dataset_name=dataset.name), names)
    with pytest.raises(USER_ERRORS, match=f"init_from: .* learnt {names[0]}"):
        prepare(str(data), str(tmp_path / "run"), fold=0, init_from=str(tmp_path / "other"))
    assert not (tmp_path / "run").exists()
