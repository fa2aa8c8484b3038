"""The pair and its predictions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcsc_bundle.networks import BranchPredictor, NetworkPair
from tests.mcsc_bundle.networks.test_unet import image_for, reloaded
from tests.plans import KINDS, make_plan


@pytest.mark.parametrize("kind", KINDS)
def test_both_networks_agree_on_the_shape(kind: str) -> None:
    cnn, transformer = NetworkPair.from_plan(make_plan(kind))(image_for(kind))
    assert cnn.shape == transformer.shape == (2, 3, *make_plan(kind).patch_size)


def test_each_branch_predicts_alone() -> None:
    pair, x = NetworkPair.from_plan(make_plan("2d")).eval(), image_for("2d")
    cnn, transformer = pair(x)
    assert torch.equal(BranchPredictor(pair, "cnn")(x), cnn)
    assert torch.equal(BranchPredictor(pair, "transformer")(x), transformer)


def test_both_branches_give_the_mean_probability() -> None:
    pair, x = NetworkPair.from_plan(make_plan("2d")).eval(), image_for("2d")
    cnn, transformer = pair(x)
    mean = (cnn.softmax(1) + transformer.softmax(1)) / 2
    torch.testing.assert_close(BranchPredictor(pair, "both")(x).exp(), mean)


@pytest.mark.parametrize("branch", ["cnn", "transformer", "both"])
def test_scripted_predictor_equals_eager(branch: str) -> None:
    predictor, x = BranchPredictor(NetworkPair.from_plan(make_plan("3d")), branch).eval(), image_for("3d")
    torch.testing.assert_close(reloaded(torch.jit.script(predictor))(x), predictor(x))


def test_unknown_branch_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"one of \('cnn', 'transformer', 'both'\), received 'swin'"):
        BranchPredictor(NetworkPair.from_plan(make_plan("2d")), "swin")


def test_from_plan_passes_pretrained_weights_on() -> None:
    with pytest.raises(ValueError, match="no_such_file"):
        NetworkPair.from_plan(make_plan("2d"), pretrained="no_such_file.pth")


@pytest.mark.parametrize("branch", ["cnn", "transformer"])
def test_onnx_export_gives_the_same_logits(branch: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    predictor, x = BranchPredictor(NetworkPair.from_plan(make_plan("2d")), branch).eval(), image_for("2d", batch=1)
    torch.onnx.export(predictor, (x,), tmp_path / "network.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), predictor(x), rtol=1e-4, atol=1e-4)
