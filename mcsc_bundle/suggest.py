"""Which unlabelled scans are most worth labelling next.

    python -m mcsc_bundle suggest RUN [--count 10] [--windows 8]

A scan is worth a label where the two trained networks contradict each other on it, and where no labelled scan looks like it.
The first is the disagreement of two unlike models (query by committee, Seung et al., 1992), the second the distance to the
labelled cases in the CNN's features (core-set selection, Sener and Savarese, ICLR 2018). Scans are taken one after the
other, each counting as labelled for the next, so that a list does not hold ten scans of one kind.

Of each scan, windows are looked at in random order until enough of them hold foreground, as neighbouring slices tell little
new: on the phantom set 8 such windows (half of all) list 9 of the 10 scans that all windows list.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor
from tqdm import tqdm

from mcsc_bundle.csv_log import write_rows
from mcsc_bundle.data import network_input
from mcsc_bundle.files import DiskError
from mcsc_bundle.first_stage import remembered_key
from mcsc_bundle.networks import BranchPredictor
from mcsc_bundle.plan import Plan
from mcsc_bundle.plan_files import read_json
from mcsc_bundle.store import CaseStore, StoredCase, store_folders
from mcsc_bundle.trained_run import TrainedRun, trained_network
from mcsc_bundle.words import aligned

log = logging.getLogger(__name__)

FOREGROUND_WINDOWS = 8
COLUMNS = ("rank", "case", "score", "distance", "disagreement")  # of suggestions.csv

NO_AGREEMENT = """NOTE: on every scan the two networks contradict each other completely: one of them has learned next to nothing.
The order is that of the distance alone. Train longer before you label by this list."""

LEGEND = """score         distance x disagreement: how much a label of this scan would add
distance      to the nearest scan that is labelled or listed above, in the CNN's features, each scaled to a spread of 1
disagreement  1 - mean Dice between the masks of both networks: 0 the same, 1 no overlap"""


@dataclass(frozen=True)
class Look:
    """What the trained networks make of one case.

    Args:
        features: mean of the CNN's coarsest map, ``(C,)``.
        disagreement: 1 - mean Dice between the masks of both networks over the classes either of them finds, in [0, 1].
        seen, windows: how many windows were looked at, of how many.
    """

    features: Tensor
    disagreement: float
    seen: int = 0
    windows: int = 0


@dataclass(frozen=True)
class Suggestion:
    """One line of the list: ``score = distance * disagreement``, ``distance`` to the nearest labelled or listed case."""

    case: str
    score: float
    distance: float
    disagreement: float


def suggest(
    run_dir: str,
    count: int = 10,
    cache_dir: str | None = None,
    device: str = "auto",
    windows: int | None = FOREGROUND_WINDOWS,
) -> None:
    """Rank the unlabelled cases of a run by what a label of theirs would add; writes ``suggestions.csv`` there.

    Args:
        run_dir: a finished training of a method with two networks (``models/pair.pt``).
        count: length of the list.
        cache_dir: where the preprocessed cases are; ``None`` looks in ``run_dir`` and, for a fold, in the folders above it.
        device: ``cpu``, ``cuda`` or ``auto``.
        windows: with foreground, to look at in each scan; ``None`` looks at every window.

    Raises:
        SystemExit: no window to look at, no such run, no pair of networks in it, no unlabelled case, or cases that are not
            stored.
    """
    if windows is not None and windows < 1:
        raise SystemExit(f"error: expected windows to be 1 or more, or None for all, received {windows}.")
    run, began = Path(run_dir), time.perf_counter()
    trained = TrainedRun(run, "both")
    labeled, unlabeled, store = _cases(run, trained.plan.data_key, cache_dir)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    networks = trained_network(trained).eval().to(where)
    assert isinstance(networks, BranchPredictor)
    candidates = set(unlabeled)
    looks = {
        name: look_at(store.open(name), trained.plan, networks, windows, name in candidates)
        for name in tqdm((*labeled, *unlabeled), desc="looking at scans", unit="scan")
    }
    listed = rank([looks[name] for name in labeled], {name: looks[name] for name in unlabeled}, count)
    if listed and min(s.disagreement for s in listed) > 0.99:
        print(f"{NO_AGREEMENT}\n")
    seen, total = (sum(getattr(look, name) for look in looks.values()) for name in ("seen", "windows"))
    print(
        f"The {len(listed)} most worth labelling of {len(unlabeled)} unlabelled cases:\n\n{_table(listed)}\n\n{LEGEND}\n"
    )
    print(
        f"From {seen} of {total} windows of {len(labeled)} labelled and {len(unlabeled)} unlabelled scans, in "
        f"{time.perf_counter() - began:.0f} s; in {run / 'suggestions.csv'} too."
    )
    _save(listed, run / "suggestions.csv")


def _save(listed: Sequence[Suggestion], path: Path) -> None:
    try:
        cells = (
            (place, s.case, f"{s.score:.4f}", f"{s.distance:.4f}", f"{s.disagreement:.4f}")
            for place, s in enumerate(listed, start=1)
        )
        write_rows(path, (dict(zip(COLUMNS, row, strict=True)) for row in cells), COLUMNS)
    except DiskError as error:
        raise SystemExit(f"error: {error}") from None


@torch.inference_mode()
def look_at(
    case: StoredCase,
    plan: Plan,
    networks: BranchPredictor,
    windows: int | None = None,
    compare: bool = True,
) -> Look:
    """Both networks over windows of a case that lie side by side without overlap.

    Args:
        case: preprocessed, any size.
        plan: the window's size and the class count.
        networks: the trained pair, in eval mode.
        windows: stop once this many hold foreground by the CNN; ``None`` looks at all.
        compare: without, the Transformer does not run and the disagreement is 0.
    """
    overlap = torch.zeros(plan.num_classes - 1)
    total = torch.zeros(plan.num_classes - 1)
    features: list[Tensor] = []
    outputs = networks.pair.outputs
    places = _places(case, plan)
    left = len(places) if windows is None else windows
    while left > 0 and len(features) < len(places):
        batch = _read(case, plan, places[len(features) :][: min(left, plan.batch_labeled + plan.batch_unlabeled)])
        maps = networks.pair.cnn.features(batch.to(next(networks.parameters()).device))
        logits = networks.pair.cnn.head(maps[-1])
        cnn = outputs.foreground(outputs.hard(logits), logits.shape[1]).flatten(2)
        features.extend(maps[0].flatten(2).mean(2).cpu())
        left -= len(batch) if windows is None else int(cnn.flatten(1).any(1).sum())
        if compare:
            logits = networks.pair.transformer(batch.to(cnn.device))
            transformer = outputs.foreground(outputs.hard(logits), logits.shape[1]).flatten(2)
            overlap += (cnn & transformer).sum((0, 2)).cpu()
            total += (cnn.sum((0, 2)) + transformer.sum((0, 2))).cpu()
    found = total > 0
    agreement = float((2 * overlap[found] / total[found]).mean()) if found.any() else 1.0
    return Look(torch.stack(features).mean(0), 1 - agreement, len(features), len(places))


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


def _places(case: StoredCase, plan: Plan) -> list[tuple[int, ...]]:
    """Where windows begin that cover the case, in an order that is random and always the same."""
    size = plan.image_patch_size
    padded = [max(length, window) for length, window in zip(case.shape, size, strict=True)]
    margin = [(long - length) // 2 for long, length in zip(padded, case.shape, strict=True)]
    places = [
        tuple(axis.start - before for axis, before in zip(place, margin, strict=True))
        for place in dense_patch_slices(padded, size, size)
    ]
    return [places[index] for index in np.random.default_rng(0).permutation(len(places))]


def _read(case: StoredCase, plan: Plan, places: Sequence[tuple[int, ...]]) -> Tensor:
    """Windows ``(B, C, *patch)``; outside the image they are 0."""
    windows = torch.stack([network_input(case, plan, place, plan.image_patch_size) for place in places])
    return windows if plan.slice_axis is None else windows.squeeze(plan.slice_axis + 2)


def _cases(run: Path, key: str, cache_dir: str | None) -> tuple[list[str], list[str], CaseStore]:
    """Labelled and unlabelled cases of the run that are stored, and where."""
    path = run / "splits.json"
    if not path.exists():
        raise SystemExit(
            f"error: expected {path}, which does not exist. Give the folder of a training (one fold of a cross-validation)."
        )
    split = read_json(path, needs=("labeled", "unlabeled"))
    if not split["unlabeled"]:
        raise SystemExit(
            f"error: expected a training with unlabelled scans to choose from, received {run} without any."
        )
    folders = [cache_dir] if cache_dir else store_folders(run)
    for store in (CaseStore(folder, key, remembered_key(run)) for folder in folders):
        there = {name for name in (*split["labeled"], *split["unlabeled"]) if name in store}
        if store.stage:
            there = {name for name in there if store.has_previous(name)}
        labeled, unlabeled = ([name for name in split[part] if name in there] for part in ("labeled", "unlabeled"))
        if unlabeled:
            return labeled, unlabeled, store
    raise SystemExit(
        f"error: expected preprocessed unlabelled cases in {', '.join(map(str, folders))}, found none of "
        f"{len(split['unlabeled'])}. Give the --cache_dir of the training, if it had one; or repeat its command, which "
        "stores them again."
    )


def _table(listed: Sequence[Suggestion]) -> str:
    lines = [COLUMNS] + [
        (str(place), s.case, f"{s.score:.2f}", f"{s.distance:.2f}", f"{s.disagreement:.3f}")
        for place, s in enumerate(listed, start=1)
    ]
    return "\n".join(aligned(lines, right=True))
