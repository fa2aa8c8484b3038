"""The ignore label in batches and in scores, on a few voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric

from mcsc_bundle.labels import IGNORED, STORED_IGNORED, ScoredClassesd, with_ignored
from tests.plans import make_plan


def test_stored_indices_become_signed() -> None:
    stored = np.array([0, 2, STORED_IGNORED, 254], np.uint8)
    np.testing.assert_array_equal(with_ignored(stored), [0, 2, IGNORED, 254])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_a_metric_sees_the_annotated_voxels_alone(dtype) -> None:
    label = torch.tensor([[1, 1, 0, 255]]).to(dtype)
    logits = torch.nn.functional.one_hot(torch.tensor([1, 0, 0, 1]), 3).T.float()  # right, missed, right, not scored
    scored = ScoredClassesd(("pred", "label"), make_plan("3d"))({"pred": logits, "label": label})
    assert scored["pred"].shape == scored["label"].shape == (3, 4)
    assert scored["pred"][:, 3].tolist() == scored["label"][:, 3].tolist() == [1, 0, 0]
    dice = DiceMetric(include_background=False)(scored["pred"][None], scored["label"][None])
    assert float(dice[0, 0]) == pytest.approx(2 * 1 / (1 + 2))
