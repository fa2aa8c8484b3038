"""The paper's set-up, figure by figure, as the released script for ACDC has it (docs/method.md)."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from benchmarks.label_protocols import PROTOCOLS
from mcsc_bundle.methods import MultiScaleContrast, PaperMCSC
from mcsc_bundle.networks import NetworkPair
from preprocessing.dataset import DatasetError
from preprocessing.paper import paper_plan
from tests.mcsc_bundle.methods.cases import build
from tests.plans import make_plan

CONFIGS = Path(__file__).parents[2] / "configs"


def test_patch_batch_and_scales():
    plan = paper_plan(make_plan("slicewise"))
    assert plan.patch_size == (224, 224)
    assert (plan.batch_labeled, plan.batch_unlabeled, plan.batch_dice) == (2, 2, True)
    assert [(s.stride, s.block, s.pixels) for s in plan.contrast] == [
        ((1, 1), (19, 19), None),
        ((8, 8), (14, 14), None),
    ]


def test_networks_and_projectors():
    plan = paper_plan(make_plan("slicewise"))
    networks = NetworkPair.from_plan(plan)
    assert networks.cnn.feature_channels[-4:] == (128, 64, 32, 16)
    assert networks.transformer.feature_channels[-4:] == (384, 192, 96, 96)
    fine, coarse = MultiScaleContrast(plan, networks).projectors
    layers = [(p.cnn.weight.shape, p.transformer[1].weight.shape, p.shared.weight.shape) for p in (fine, coarse)]
    assert layers[0] == ((256, 16), (256, 96), (128, 256))
    assert layers[1] == ((256, 128), (256, 192), (128, 256))
    assert isinstance(coarse.transformer[0], torch.nn.LayerNorm)
    assert isinstance(fine.transformer[0], torch.nn.Identity)  # the network has normalised that map


def test_refuses_three_dimensions():
    with pytest.raises(DatasetError, match="expected a 2-D plan, received 3-D"):
        paper_plan(make_plan("3d"))


def test_steps_and_rates_of_the_protocol():
    """40 000 steps; 5e-4 for the CNN and the projectors, a fifth for Swin, as the optimiser of the merged config gets them."""
    paper = PROTOCOLS["paper"]
    assert paper.iterations == 40_000
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(CONFIGS / "method_mcsc_paper.yaml")])
    parser.update(paper.overrides)
    assert parser["optimizer"]["params"] == "$@method.parameter_groups(@lr, @transformer_lr)"
    rates = [parser.get_parsed_content(name) for name in ("lr", "transformer_lr")]
    _, method = build("slicewise", PaperMCSC)
    assert [group["lr"] for group in method.parameter_groups(*rates)] == [5e-4, 1e-4]
    assert (paper.overrides["preset"], paper.overrides["configuration"]) == ("paper", "2d")


def test_optimiser():
    """AdamW, weight decay 5e-4; Swin at a fifth of the rate of the CNN and the projectors, with a warm-up of 5 %."""
    _, method = build("slicewise", PaperMCSC)
    fast, slow = method.parameter_groups(5e-4)
    assert (fast["lr"], fast["warmup"], fast["weight_decay"]) == (5e-4, 0.0, 5e-4)
    assert (slow["lr"], slow["warmup"], slow["weight_decay"]) == (pytest.approx(1e-4), 0.05, 5e-4)
    assert {*map(id, method.contrast.parameters())} <= {*map(id, fast["params"])}
    assert {*map(id, method.transformer.parameters())} == {*map(id, slow["params"])}


def test_overlay():
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(CONFIGS / "method_mcsc_paper.yaml")])
    assert parser["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert parser["method"]["_target_"].endswith(".PaperMCSC") and parser["loss"]["_target_"].endswith(".paper_loss")
