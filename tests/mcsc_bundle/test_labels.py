"""The ignore label in batches and in scores, on a few voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric

from mcsc_bundle.labels import IGNORED, STORED_IGNORED, file_values, painted, scored_values, with_ignored
from mcsc_bundle.scoring import CaseDice, ScoredClassesd
from tests.plans import make_plan


def test_stored_indices_become_signed() -> None:
    stored = np.array([0, 2, STORED_IGNORED, 254], np.uint8)
    np.testing.assert_array_equal(with_ignored(stored), [0, 2, IGNORED, 254])


def test_what_a_region_plan_says_of_values() -> None:
    labels, regions = {"background": 0, "whole": 4, "core": 2}, {"whole": (1, 2, 4), "core": (2,)}
    assert file_values(labels, regions) == (0, 1, 2, 4) and file_values(labels, {}) == (0, 4, 2)
    assert scored_values(labels, regions) == {"background": 0, "whole": (1, 2, 4), "core": (2,)}
    np.testing.assert_array_equal(painted(np.array([0, 1, 2, 4]), labels, regions), [0, 4, 2, 4])


def test_a_metric_sees_each_region() -> None:
    plan = make_plan("3d", labels={"background": 0, "whole": 1, "core": 2}, regions={"whole": (1, 2), "core": (2,)})
    label, logits = torch.tensor([[0, 1, 2, 255]]), torch.tensor([[-1, 1, 1, 1], [-1, -1, 1, 1]]).float()
    scored = ScoredClassesd(("pred", "label"), plan)({"pred": logits, "label": label.to(torch.uint8)})
    assert torch.equal(scored["pred"], scored["label"])
    assert scored["pred"].tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0]]


def test_classes_that_do_not_fit_on_the_gpu_are_told_apart_in_main_memory(monkeypatch) -> None:
    label, logits = torch.tensor([[0, 1, 2]]), torch.eye(3)
    scored, told, tries = ScoredClassesd(("pred", "label"), make_plan("3d")), [], []
    whole = scored._scored

    def full_at_first(*tensors):
        tries.append(tensors)
        if len(tries) == 1:
            raise torch.cuda.OutOfMemoryError
        told.extend(tensor.device.type for tensor in tensors)
        return whole(*tensors)

    monkeypatch.setattr(scored, "_scored", full_at_first)
    item = scored({"pred": logits, "label": label, "case": "a"})
    assert told == ["cpu", "cpu"] and item["case"] == "a" and torch.equal(item["pred"], item["label"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_a_metric_sees_the_annotated_voxels_alone(dtype) -> None:
    label = torch.tensor([[1, 1, 0, 255]]).to(dtype)
    logits = torch.nn.functional.one_hot(torch.tensor([1, 0, 0, 1]), 3).T.float()  # right, missed, right, not scored
    scored = ScoredClassesd(("pred", "label"), make_plan("3d"))({"pred": logits, "label": label})
    assert scored["pred"].shape == scored["label"].shape == (3, 4)
    assert scored["pred"][:, 3].tolist() == scored["label"][:, 3].tolist() == [1, 0, 0]
    dice = DiceMetric(include_background=False)(scored["pred"][None], scored["label"][None])
    assert float(dice[0, 0]) == pytest.approx(2 * 1 / (1 + 2))


def test_the_validation_s_dice_is_monai_s(monkeypatch) -> None:
    """And every score of a case is sent to main memory, where the next one may come from."""
    torch.manual_seed(0)
    sent, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (sent.append(tensor), cpu(tensor))[1])
    ours, theirs = CaseDice(include_background=False), DiceMetric(include_background=False)
    for _ in range(3):
        predicted, truth = (torch.rand(2, 1, 3, 5, 6) > 0.5).float()
        ours(predicted, truth), theirs(predicted, truth)
    assert len(sent) == 3 and torch.equal(ours.aggregate(), theirs.aggregate())
