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

    networks = BranchPredictor(NetworkPair(Copy(), Copy()), "both")
    seen = look_at(Case(), plan, networks)
    assert float(seen.features) == pytest.approx(float(image.mean()), rel=1e-5)
    assert (seen.seen, seen.windows) == (8, 8)


class Threshold(torch.nn.Module):
    """Class 1 above a threshold, class 0 below; its features are the image."""

    def __init__(self, threshold, calls=None):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(threshold))
        self.calls = [] if calls is None else calls

    def features(self, x):
        return [x, x]

    def head(self, x):
        self.calls.append(len(x))
        return torch.cat([torch.zeros_like(x), x - self.threshold], dim=1)

    def forward(self, x):
        return self.head(x)


class Steps:
    """Eight windows of a 3-D plan; those with a True hold the values 1 and 3, half of the voxels each; others 0."""

    def __init__(self, plan, there):
        self.shape = tuple(2 * size for size in plan.patch_size)
        self.image = np.zeros((1, *self.shape), np.float32)
        for number, holds in enumerate(there):
            corner = np.unravel_index(number, (2, 2, 2))
            window = tuple(slice(c * n, (c + 1) * n) for c, n in zip(corner, plan.patch_size, strict=True))
            self.image[(0, *window)] = holds * 1.0
            half = (*window[:2], slice(window[2].start, window[2].start + plan.patch_size[2] // 2))
            self.image[(0, *half)] = holds * 3.0

    def read_image(self, start, size):
        return self.image[(slice(None), *(slice(s, s + n) for s, n in zip(start, size, strict=True)))]


def test_it_stops_once_enough_windows_hold_foreground():
    """The CNN finds all of a window (above 0.5), the Transformer half of it (above 2): Dice 2/3."""
    plan = make_plan("3d", labels={"background": 0, "left": 1})
    calls: list[int] = []
    networks = BranchPredictor(NetworkPair(Threshold(0.5), Threshold(2.0, calls)), "both").eval()
    case = Steps(plan, [True] * 8)
    for windows, seen in ((1, 1), (3, 3), (8, 8), (99, 8), (None, 8)):
        look = look_at(case, plan, networks, windows)
        assert look.disagreement == pytest.approx(1 / 3) and (look.seen, look.windows) == (seen, 8)
    calls.clear()
    assert look_at(case, plan, networks, 3, compare=False).disagreement == 0 and not calls


def test_rare_foreground_is_searched_for():
    plan = make_plan("3d", labels={"background": 0, "left": 1})
    networks = BranchPredictor(NetworkPair(Threshold(0.5), Threshold(2.0)), "both").eval()
    for place in range(8):
        look = look_at(Steps(plan, [number == place for number in range(8)]), plan, networks, 1)
        assert look.disagreement == pytest.approx(1 / 3)
    look = look_at(Steps(plan, [False] * 8), plan, networks, 1)
    assert look.disagreement == 0 and look.seen == 8


def test_the_command_writes_a_list_of_the_unlabelled_cases(tmp_path, capsys, monkeypatch):
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
    text = capsys.readouterr().out
    assert "2 most worth labelling of 2 unlabelled cases" in text and "windows of 1 labelled and 2 unlabelled" in text
    columns = next(line for line in text.splitlines() if "rank" in line).split()
    assert columns == ["rank", "case", "score", "distance", "disagreement"]
    assert all(f"{name}  " in text.split("disagreement\n")[-1] for name in columns[2:])  # each is explained
    assert "NOTE" not in text
    monkeypatch.setattr(
        "mcsc_bundle.suggest.look_at", lambda case, *_: Look(torch.tensor([float(len(case.case))]), 1.0)
    )
    suggest(str(tmp_path), device="cpu")
    assert "Train longer before you label by this list" in capsys.readouterr().out
    fold = tmp_path / "fold_0"  # a cross-validation keeps its cases above its folds
    for name in ("models", "plan.json", "splits.json"):
        fold.mkdir(exist_ok=True)
        (fold / name).symlink_to(tmp_path / name)
    suggest(str(fold), device="cpu")
    assert (fold / "suggestions.csv").read_text() == (tmp_path / "suggestions.csv").read_text()
    with pytest.raises(SystemExit, match="preprocessed unlabelled cases in elsewhere, found none of 2"):
        suggest(str(fold), cache_dir="elsewhere")
    with pytest.raises(SystemExit, match="windows to be 1 or more"):
        suggest(str(tmp_path), windows=0)
    torch.save({**branches, "cnn": {}}, tmp_path / "models" / "pair.pt")
    with pytest.raises(SystemExit, match=r"fit plan\.json, received others in .*pair\.pt"):
        suggest(str(tmp_path), device="cpu")
    torch.save({"cnn": pair.cnn.state_dict()}, tmp_path / "models" / "pair.pt")
    with pytest.raises(SystemExit, match="found no Transformer"):
        suggest(str(tmp_path))
