"""What a step asks of a GPU."""

import pytest
import torch

from benchmarks.launches import Launches, count
from benchmarks.random_training import cardiac_plan
from mcsc_bundle.losses import contrastive, fused


def test_a_step_makes_no_constants_and_its_contrast_few_launches():
    plan = cardiac_plan(size=64, batch=1, pixels=256)
    cross_teaching, mcsc_paper = (count(plan, name, deep=False) for name in ("cross_teaching", "mcsc_paper"))
    made_anew = (
        "swin_blocks.blocked_pairs",
        "swin_blocks.relative_position_index",
        "blocks._flat",
        "contrastive._classes",
    )
    assert not [name for name in mcsc_paper if name.endswith(made_anew)]
    assert cross_teaching["networks.swin_blocks.forward"] == mcsc_paper["networks.swin_blocks.forward"] > 100
    added = sum(mcsc_paper.values()) - sum(cross_teaching.values())
    assert 150 < added < 260  # 240 when this was written


@pytest.mark.parametrize("by_kernels", [True, False])
def test_by_its_kernels_the_contrast_launches_as_much_whatever_there_is_to_contrast(by_kernels, monkeypatch):
    monkeypatch.setattr(contrastive, "usable", lambda *_: by_kernels)
    monkeypatch.setattr(contrastive, "CPU_WORKSPACE", 0)
    monkeypatch.setattr(fused, "_launch", lambda *_: None)
    _, few, many = (
        launches(groups, size) for groups, size in ((1, 16), (1, 16), (20, 600))
    )  # the first keeps constants
    assert (few == many) == by_kernels


def launches(groups, size):
    features, labels = torch.randn(groups, size, 4, requires_grad=True), torch.arange(size).expand(groups, -1) % 3
    with Launches() as counted:
        contrastive.balanced_contrastive_loss(features, labels, 3).backward()
    return sum(counted.by_function.values())
