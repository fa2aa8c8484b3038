"""The last lines of a training name the network, its scores, and commands in the words of the first one."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from mcsc_bundle.next_steps import NextSteps
from mcsc_bundle.words import counted, first_line
from tests.end_to_end.road import ROOT

MONAI = "site-packages/monai/bundle/__main__.py"


@pytest.fixture
def told(tmp_path, caplog):
    def lines(held_out=0, epoch=8, **more):
        with caplog.at_level(logging.INFO):
            NextSteps(str(tmp_path), held_out, **more).tell(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
        return caplog.messages[-1].splitlines()

    return lines


def test_the_network_and_its_scores_are_named(tmp_path, told):
    assert told() == [
        f"Done after 8 epochs. The network: {tmp_path}/models/model.pt",
        "Every labelled case trained, so none is left to score it. How good such a training is: python -m mcsc_bundle "
        "cross_validate DATA RUNS",
    ]
    assert told(unusable=2)[1].startswith(
        "It was not validated: 2 labelled cases kept out of the training to score it could not"
    )
    (tmp_path / "splits.json").write_text('{"folds": []}')
    assert told()[1].endswith("With one labelled patient no cross-validation can: look at its masks.")
    assert told(held_out=3)[1].endswith("no label was spared for it, and the test cases are for the end.")
    assert told(held_out=3, validated=3, val_interval=4)[1].endswith("happens every 4 epochs (--val_interval).")
    (tmp_path / "validation.csv").write_text("epoch,iteration,mean_dice\n4,40,0.75\n8,80,0.5\n")
    assert told()[1] == "Validation: mean Dice 0.5000 after epoch 8, at best 0.7500 after epoch 4 (model_best.pt)."


def test_commands_are_in_the_words_of_the_training_s_own(tmp_path, told, monkeypatch):
    config = ROOT / "configs" / "train.yaml"
    typed = ["run", "training", "--config_file", str(config), "--dataset_dir", "my data", "--num_labeled=07"]
    monkeypatch.setattr(sys, "argv", [MONAI, *typed])
    infer, evaluate = told(held_out=3)[2:]
    assert f"run --config_file {config.with_name('inference.json')} --dataset_dir NEW" in infer
    assert f"--run_dir {tmp_path}" in infer
    assert "Scores of the 3 labelled cases that did not train:" in evaluate
    assert evaluate.endswith(
        f"run evaluate --config_file \"['{config}','{config.with_name('evaluate.yaml')}']\" "
        "--dataset_dir 'my data' --num_labeled 07"
    )
    assert len(told(held_out=0)) == 3  # nothing to score, no such command


def test_words():
    assert [counted(number, "test case") for number in (0, 1, 2)] == ["no test case", "1 test case", "2 test cases"]
    assert first_line(ValueError("a\nb")) == "a" and first_line(EOFError()) == "EOFError"
