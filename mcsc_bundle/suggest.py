"""Which unlabelled scans are most worth labelling next.

    python -m mcsc_bundle suggest RUN [--count 10]

A scan is worth a label where the two trained networks contradict each other on it, and where no labelled scan looks like it.
The first is the disagreement of two unlike models (query by committee, Seung et al., 1992), the second the distance to the
labelled cases in the CNN's features (core-set selection, Sener and Savarese, ICLR 2018). Scans are taken one after the
other, each counting as labelled for the next, so that a list does not hold ten scans of one kind.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor
from tqdm import tqdm

from mcsc_bundle.inference import TrainedRun, loadable, predictor
from mcsc_bundle.networks import BranchPredictor, unet_from_plan
from mcsc_bundle.plan import Plan
from mcsc_bundle.store import CaseStore, StoredCase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What the trained networks make of one case.

    Args:
        features: mean of the CNN's coarsest map, ``(C,)``.
        disagreement: 1 - mean Dice between the masks of both networks over the classes either of them finds, in [0, 1].
    """

    features: Tensor
    disagreement: float


@dataclass(frozen=True)
class Suggestion:
    """One line of the list: ``score = distance * disagreement``, ``distance`` to the nearest labelled or listed case."""

    case: str
    score: float
    distance: float
    disagreement: float


def suggest(run_dir: str, count: int = 10, cache_dir: str | None = None, device: str = "auto") -> None:
    """Rank the unlabelled cases of a run by what a label of theirs would add; writes ``suggestions.csv`` there.

    Args:
        run_dir: a finished training of a method with two networks (``models/pair.pt``).
        count: length of the list.
        cache_dir: where the preprocessed cases are, if not in ``run_dir``.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        SystemExit: no such run, no pair of networks in it, no unlabelled case, or cases that are not stored.
    """
    run = Path(run_dir)
    trained = TrainedRun(run, "both")
    store = CaseStore(cache_dir or run / "preprocessed", trained.plan.data_key)
    labeled, unlabeled = _cases(run, store)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    networks = _networks(trained).to(where)
    names = (*labeled, *unlabeled)
    looks = {name: look_at(store.open(name), trained.plan, networks) for name in tqdm(names, desc="cases")}
    listed = rank([looks[name] for name in labeled], {name: looks[name] for name in unlabeled}, count)
    with (run / "suggestions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("rank", "case", "score", "distance", "disagreement"))
        writer.writerows(
            (place, s.case, f"{s.score:.4f}", f"{s.distance:.4f}", f"{s.disagreement:.4f}")
            for place, s in enumerate(listed, start=1)
        )
    print(f"Most worth labelling of {len(unlabeled)} unlabelled cases ({run / 'suggestions.csv'}):\n{_table(listed)}")


@torch.no_grad()
def look_at(case: StoredCase, plan: Plan, networks: BranchPredictor) -> Look:
    """Both networks over the windows of a case, side by side without overlap.

    Args:
        case: preprocessed, any size.
        plan: the window's size and the class count.
        networks: the trained pair, in eval mode.
    """
    overlap = torch.zeros(plan.num_classes - 1)
    total = torch.zeros(plan.num_classes - 1)
    features: list[Tensor] = []
    for windows in _windows(case, plan):
        maps = networks.pair.cnn.features(windows.to(next(networks.parameters()).device))
        outputs = networks.pair.outputs
        logits = networks.pair.cnn.head(maps[-1]), networks.pair.transformer(windows.to(maps[0].device))
        cnn, transformer = (
            outputs.foreground(outputs.hard(each), each.shape[1])[0].flatten(1).cpu() for each in logits
        )
        features.extend(maps[0].flatten(2).mean(2).cpu())
        overlap += (cnn & transformer).sum(1)
        total += cnn.sum(1) + transformer.sum(1)
    found = total > 0
    agreement = float((2 * overlap[found] / total[found]).mean()) if found.any() else 1.0
    return Look(torch.stack(features).mean(0), 1 - agreement)


def rank(labeled: Sequence[Look], unlabeled: dict[str, Look], count: int) -> list[Suggestion]:
    """Greedy list of ``count`` cases; feature channels are first scaled to unit spread over all cases.

    Args:
        labeled: cases that have a label; may be empty, then the distance is that to the mean of all cases.
        unlabeled: candidates by name.
        count: length of the list, at most the number of candidates.
    """
    names = list(unlabeled)
    everything = torch.stack([look.features for look in (*labeled, *unlabeled.values())])
    scaled = (everything - everything.mean(0)) / everything.std(0, correction=0).clamp(min=1e-6)
    known, candidates = scaled[: len(labeled)], scaled[len(labeled) :]
    centres = known if len(known) else scaled.mean(0, keepdim=True)
    distance = torch.cdist(candidates, centres).amin(1)
    disagreement = torch.tensor([look.disagreement for look in unlabeled.values()])
    listed: list[Suggestion] = []
    open_cases = torch.ones(len(names), dtype=torch.bool)
    for _ in range(min(count, len(names))):
        score = torch.where(open_cases, distance * disagreement, torch.tensor(-1.0))
        best = int(score.argmax())
        listed.append(Suggestion(names[best], float(score[best]), float(distance[best]), float(disagreement[best])))
        open_cases[best] = False
        distance = torch.minimum(distance, torch.cdist(candidates, candidates[best : best + 1])[:, 0])
    return listed


def _windows(case: StoredCase, plan: Plan) -> Iterator[Tensor]:
    """Windows ``(1, C, *patch)`` that cover the case once; outside the image they are 0."""
    size = plan.image_patch_size
    padded = [max(length, window) for length, window in zip(case.shape, size, strict=True)]
    for place in dense_patch_slices(padded, size, size):
        start = tuple(
            axis.start - (long - length) // 2 for axis, long, length in zip(place, padded, case.shape, strict=True)
        )
        window = torch.from_numpy(case.read_image(start, size))[None]
        yield window if plan.slice_axis is None else window.squeeze(plan.slice_axis + 2)


def _networks(trained: TrainedRun) -> BranchPredictor:
    networks = predictor(unet_from_plan(trained.plan), trained.plan, "both")
    states = torch.load(trained.weights, map_location="cpu", weights_only=True)
    for name, network in loadable(networks).items():
        network.load_state_dict(states[name])
    assert isinstance(networks, BranchPredictor)
    return networks.eval()


def _cases(run: Path, store: CaseStore) -> tuple[list[str], list[str]]:
    """Labelled and unlabelled cases of the run that are stored."""
    path = run / "splits.json"
    if not path.exists():
        raise SystemExit(f"error: expected {path}, which does not exist. Give the folder of a training.")
    split = json.loads(path.read_text())
    labeled, unlabeled = ([name for name in split[part] if name in store] for part in ("labeled", "unlabeled"))
    if not unlabeled:
        raise SystemExit(
            f"error: expected unlabelled cases in {store.folder}, found none of {len(split['unlabeled'])}. "
            "Give the --cache_dir of the training, if it had one."
        )
    return labeled, unlabeled


def _table(listed: Sequence[Suggestion]) -> str:
    lines = [("rank", "case", "distance", "disagreement")] + [
        (str(place), s.case, f"{s.distance:.2f}", f"{s.disagreement:.3f}") for place, s in enumerate(listed, start=1)
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
