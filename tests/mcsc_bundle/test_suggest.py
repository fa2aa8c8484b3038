"""Suggestions: unlike cases on which the networks disagree come first, and a list covers what there is."""

import json

import numpy as np
import pytest
import torch

from mcsc_bundle.networks import BranchPredictor, NetworkPair
from mcsc_bundle.store import CaseStore
from mcsc_bundle.suggest import Look, look_at, rank, suggest
from tests.mcsc_bundle.memory_store import MemoryStore
from tests.plans import make_plan


def look(position, disagreement):
    return Look(torch.tensor(position, dtype=torch.float32), disagreement)


def test_of_equally_distant_cases_the_one_with_more_disagreement_comes_first():
    listed = rank([look([0, 0], 0)], {"sure": look([1, 0], 0.1), "unsure": look([-1, 0], 0.4)}, 2)
    assert [s.case for s in listed] == ["unsure", "sure"]
    assert listed[0].score == pytest.approx(listed[0].distance * 0.4)


def test_a_twin_of_a_listed_case_falls_back():
    cases = {"far": look([10, 0], 0.5), "its twin": look([10.01, 0], 0.5), "other side": look([-4, 0], 0.5)}
    assert [s.case for s in rank([look([0, 0], 0)], cases, 3)] == ["its twin", "other side", "far"]


def test_networks_that_agree_give_no_disagreement():
    plan = make_plan("slicewise")
    pair = NetworkPair.from_plan(plan)
    case = MemoryStore(plan).open("free0")
    twins = BranchPredictor(NetworkPair(pair.cnn, pair.cnn), "both").eval()
    assert look_at(case, plan, twins).disagreement == 0
    assert 0 < look_at(case, plan, BranchPredictor(pair, "both").eval()).disagreement <= 1


def test_windows_cover_each_voxel_once():
    """A network that copies its input into the map: the mean feature is that of the padded image."""
    plan = make_plan("3d")

    class Copy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Conv3d(1, plan.num_classes, 1)

        def features(self, x):
            return [x, x]

        def forward(self, x):
            return self.head(x)

    image = np.random.default_rng(0).random((1, *(2 * size for size in plan.patch_size)), np.float32)

    class Case:
        shape = image.shape[1:]

        def read_image(self, start, size):
            return image[(slice(None), *(slice(s, s + n) for s, n in zip(start, size, strict=True)))]

    seen = look_at(Case(), plan, BranchPredictor(NetworkPair(Copy(), Copy()), "both"))
    assert float(seen.features) == pytest.approx(float(image.mean()), rel=1e-5)


def test_the_command_writes_a_list_of_the_unlabelled_cases(tmp_path, capsys):
    plan = make_plan("3d")
    pair = NetworkPair.from_plan(plan)
    (tmp_path / "models").mkdir()
    branches = {"cnn": pair.cnn.state_dict(), "transformer": pair.transformer.state_dict()}
    torch.save(branches, tmp_path / "models" / "pair.pt")
    plan.save(tmp_path / "plan.json")
    (tmp_path / "splits.json").write_text(json.dumps({"labeled": ["labeled0"], "unlabeled": ["free0", "free1"]}))
    store, memory = CaseStore(tmp_path / "preprocessed", plan.data_key), MemoryStore(plan)
    with pytest.raises(SystemExit, match="cache_dir"):
        suggest(str(tmp_path))
    for name in ("labeled0", "free0", "free1"):
        store.write(name, memory.open(name).image, memory.open(name).label, "source")
    suggest(str(tmp_path), device="cpu")
    rows = (tmp_path / "suggestions.csv").read_text().splitlines()
    assert {row.split(",")[1] for row in rows[1:]} == {"free0", "free1"}
    assert "2 unlabelled cases" in capsys.readouterr().out
    torch.save({"cnn": pair.cnn.state_dict()}, tmp_path / "models" / "pair.pt")
    with pytest.raises(SystemExit, match="found no Transformer"):
        suggest(str(tmp_path))
