"""kill -9 at any moment, start again: the weights of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.end_to_end.road import ROOT, small_dataset


def start(dataset, run):
    options = {
        "config_file": "configs/train.yaml",
        "dataset_dir": dataset,
        "output_dir": run,
        "epoch_length": 2,
        "max_epochs": 5,
        "workers": 1,
    }
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training", *flags],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["preprocessed", "models/checkpoint.pt", "plan.json"])
def test_killed_run_ends_with_the_same_weights(tmp_path, moment):
    dataset = small_dataset(tmp_path / "data")
    assert start(dataset, tmp_path / "whole").wait(300) == 0
    victim = start(dataset, tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / moment).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert (tmp_path / "killed" / moment).exists()
    assert start(dataset, tmp_path / "killed").wait(300) == 0
    one, other = (
        torch.load(tmp_path / name / "models" / "model.pt", weights_only=True) for name in ("whole", "killed")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
