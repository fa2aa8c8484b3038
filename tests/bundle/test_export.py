from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from bundle.export import MIN_SAME_SHARE, compare, export, stored_windows
from bundle.facts import PackError
from bundle.pack import pack
from bundle.verify import verify
from mcsc_bundle.store import CaseStore
from tests.bundle.runs import TERMS, make_run
from tests.plans import make_plan


def store_cases(run, plan, count=3, shape=(10, 20, 18)):
    """Case ``i`` is ``i + 1`` everywhere."""
    store = CaseStore(run / "preprocessed", plan.data_key)
    for index in range(count):
        image = np.full((plan.in_channels, *shape), index + 1, np.float32)
        store.write(f"case{index}", image, None, "source", plan.image_patch_size)


def test_windows_are_spread_over_the_cases_and_lie_in_their_middle(tmp_path):
    plan = make_plan("3d")
    store_cases(tmp_path, plan)
    windows = stored_windows(plan, tmp_path, 6)
    assert [float(window.max()) for window in windows] == [1, 1, 2, 2, 3, 3]
    assert all(window.shape == (1, 1, 8, 16, 16) and window.min() == window.max() for window in windows)
    assert (
        len(stored_windows(plan, tmp_path / "2d" / "fold_0", 6)) == 6
    )  # a cross-validation keeps its cases above its folds
    with pytest.raises(PackError, match="found none"):
        stored_windows(plan, tmp_path / "far" / "from" / "elsewhere", 6)


def test_windows_of_a_slice_wise_plan_are_slices_of_different_height(tmp_path):
    plan = make_plan("slicewise")
    store = CaseStore(tmp_path / "preprocessed", plan.data_key)
    image = np.broadcast_to(np.arange(6, dtype=np.float32), (1, 16, 24, 6)).copy()
    store.write("case", image, None, "source", plan.image_patch_size)
    windows = stored_windows(plan, tmp_path, 2)
    assert [float(window.max()) for window in windows] == [3, 4] and windows[0].shape == (1, 1, 16, 24)


class Channels(nn.Module):
    """Two logits: the input and zero."""

    def forward(self, x):
        return torch.cat([x, torch.zeros_like(x)], dim=1)


def test_deviation_and_share_of_equal_classes():
    batch = torch.tensor([1.0, 1.0, 1.0, -0.1]).reshape(1, 1, 2, 2)

    def other(x):
        return torch.cat([x + 0.2, torch.zeros_like(x)], dim=1)  # the fourth voxel changes its class

    exact, deviating = compare(Channels(), {"other": other}, [batch])
    assert (exact.deviation, exact.same) == (0, 1) and deviating.same == 0.75 and deviating.milliseconds > 0
    assert deviating.deviation == pytest.approx(0.2) and deviating.same < MIN_SAME_SHARE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["3d", "slicewise"])
def test_exports_agree_and_the_bundle_stays_in_order(tmp_path, kind):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    plan = make_plan(kind)
    run = make_run(tmp_path / "run", kind)
    store_cases(run, plan, shape=(16, 24, 6) if kind == "slicewise" else (10, 20, 18))
    bundle, archive = pack(run, "tiny_mri_segmentation", TERMS, tmp_path)
    before = archive.read_bytes()
    rows = export(bundle, run, windows=3)
    assert [row.form for row in rows] == ["PyTorch", "TorchScript", "ONNX Runtime"]
    assert all(row.same == 1 and row.deviation < 1e-3 for row in rows)
    export(bundle, run, windows=3)  # replaces the table
    card = (bundle / "docs" / "README.md").read_text()
    assert card.count("## Exports") == 1 and "| ONNX Runtime |" in card and archive.read_bytes() != before
    checksums = json.loads((bundle / "configs" / "metadata.json").read_text())["sha256"]
    assert set(checksums) == {"models/model.pt", "models/model.ts", "models/model.onnx"}
    assert not verify(archive, run=False).failed


def test_a_bundle_that_was_tampered_with_is_not_exported(tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.pack.export_torchscript", lambda bundle: None)
    run = make_run(tmp_path / "run")
    bundle, _ = pack(run, "tiny", TERMS, tmp_path)
    (bundle / "models" / "model.pt").write_bytes(b"other")
    with pytest.raises(PackError, match="it was exchanged or damaged"):
        export(bundle, run)
    with pytest.raises(PackError, match="expected a packed bundle"):
        export(run, run)
