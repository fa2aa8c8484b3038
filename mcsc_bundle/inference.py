"""Masks for a folder of images: one case after the other, a bad one set aside, the rest goes on.

python -m monai.bundle run --config_file configs/inference.json --dataset_dir NEW --output_dir MASKS --run_dir RUN
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, MapTransform
from torch import nn

from mcsc_bundle.choice import chosen_folders
from mcsc_bundle.ensemble import (
    Ensemble,
    EnsembleError,
    PackedEnsemble,
    check_same_plan,
    count_members,
    network_from_plan,
    run_folders,
)
from mcsc_bundle.inferers import window_inferer
from mcsc_bundle.interrupt import stops_with
from mcsc_bundle.joined import FILES, Configuration, RestoreJoinedd, check_joinable
from mcsc_bundle.networks import BranchPredictor, NetworkPair, SwinUNet, UNet
from mcsc_bundle.networks.pair import BRANCHES
from mcsc_bundle.outputs import outputs_of
from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.postprocessing import KeepLargestd, groups_or_exit
from mcsc_bundle.predictions import Predictions
from mcsc_bundle.shipped import BundleError, check_code, check_metadata, check_weights
from mcsc_bundle.tensors import load_tensors_or_exit
from mcsc_bundle.trained import check_trained
from mcsc_bundle.transforms import RestoreMaskd, reason
from mcsc_bundle.words import counted
from mcsc_bundle.writer import SaveImageMaskd

__all__ = ["CaseDataset", "CaseEvaluator", "TrainedRun", "postprocessing", "predictor", "window_inferer"]

log = logging.getLogger(__name__)


class TrainedRun:
    """A run folder or a packed bundle: ``plan.json``, and the weights in ``models``; or several runs of one plan.

    For configs: what a user may get wrong ends the program with a message instead of a traceback.

    Args:
        run_dir: the folder; or several runs to average, as a list or as the folder that holds ``fold_0``, ``fold_1``, ...
        branch: ``cnn``, ``transformer`` or ``both``; the last two need ``models/pair.pt``.
        plan: of a packed bundle, whose config holds it; ``None`` reads ``plan.json``.
        code: of a packed bundle, see ``mcsc_bundle.shipped``.
        option: what the command line calls ``run_dir``, for the messages.
    """

    def __init__(
        self,
        run_dir: str | Path | Sequence[str | Path],
        branch: str = "cnn",
        plan: Plan | None = None,
        code: str | None = None,
        option: str = "run_dir",
    ) -> None:
        if branch not in BRANCHES:
            raise SystemExit(f"error: expected branch to be one of {', '.join(BRANCHES)}, received {branch!r}.")
        self.run_dir, self.branch, self.option = run_dir, branch, option
        first, *configurations = _chosen_or_exit(run_dir)
        self.folder, *others = _folders_or_exit(first)
        if plan is None and not (self.folder / "plan.json").exists():
            kinds = "run" if option == "output_dir" else "run or packed bundle"
            raise SystemExit(
                f"error: --{option}: expected the folder of a {kinds}, received {self.folder}, which holds no plan.json. "
                f"Give the --output_dir of the training{'' if option == 'output_dir' else f' as --{option}'}."
            )
        try:
            if code is not None:
                check_code(code)
            self.plan = self._plan(plan)
            check_metadata(self.folder, self.plan)
        except BundleError as error:
            raise SystemExit(f"error: {error}") from None
        except PlanError as error:
            raise SystemExit(f"error: {error}") from None
        self.others = [TrainedRun([folder], branch, option=option) for folder in others]
        for run in self.others:
            _same_plan_or_exit(self, run)
        if others:
            log.info("Averaging the networks of %s.", ", ".join(map(str, (self.folder, *others))))
        self.configurations = [TrainedRun(folder, branch, option=option) for folder in configurations]
        if configurations:
            log.info("Averaging the configurations %s.", ", ".join(map(str, (first, *configurations))))
            try:
                check_joinable({str(run.folder): run.plan for run in (self, *self.configurations)})
            except PlanError as error:
                raise SystemExit(f"error: {error}") from None

    def _plan(self, plan: Plan | None) -> Plan:
        path = self.folder / "plan.json"
        if plan is None and not path.exists():
            raise PlanError(
                f"expected the file {path}, which does not exist. Give the folder of a training as --run_dir."
            )
        plan, source = (
            (Plan.load(path), str(path)) if plan is None else (plan, f"the plan in the configs of {self.folder}")
        )
        check_trained(self.folder / "models", plan, source)
        return plan

    @property
    def all_weights(self) -> list[Path]:
        """The files of all runs; the first is ``weights``."""
        own = [self.weights, *(run.weights for run in self.others)]
        return own + [path for run in self.configurations for path in run.all_weights]

    @property
    def network(self) -> nn.Module:
        """The trained network, all runs averaged."""
        one = _trained_network(self)
        if not self.others:
            return one
        return Ensemble([one, *(_trained_network(run) for run in self.others)], outputs_of(self.plan))

    def postprocessing(self, choice: bool | str = True) -> list[tuple[str, ...]]:
        """Classes whose largest component is kept, together, step by step.

        Args:
            choice: ``True``: what ``postprocessing.json`` in ``run_dir`` says, if it is there; ``False``: none; or the path
                of such a file (a list of runs has no folder of its own).
        """
        folder = self.run_dir if isinstance(self.run_dir, (str, Path)) else None
        return groups_or_exit(folder, choice, self.plan.scored_values)

    @cached_property
    def weights(self) -> Path:
        """The file to load, which can be read; that of a packed bundle has the checksum of its metadata."""
        path = self.folder / "models" / ("model.pt" if self.branch == "cnn" else "pair.pt")
        if not path.exists():
            remedy = f"Train first, or give the folder of another training as --{self.option}."
            if self.branch != "cnn":
                remedy = (
                    f"A packed bundle may hold the CNN alone: use --branch cnn, or the --{self.option} of the training."
                )
            raise SystemExit(f"error: expected weights in {path}, which does not exist. {remedy}")
        try:
            check_weights(self.folder, path)
        except BundleError as error:
            raise SystemExit(f"error: {error}") from None
        if "transformer" not in load_tensors_or_exit(path) and self.branch != "cnn":
            raise SystemExit(
                f"error: expected a CNN and a Transformer in {path}, found no Transformer: the method trained without. "
                "Use --branch cnn, or train with MCSC or cross teaching."
            )
        return path


def predictor(network_def: nn.Module, plan: Plan, branch: str = "cnn", others: Sequence[TrainedRun] = ()) -> nn.Module:
    """The network that predicts: the CNN itself, or a pair of it and the plan's Transformer.

    Args:
        network_def: the CNN, or the CNNs of a packed ensemble.
        plan: the plan.
        branch: ``cnn``, ``transformer`` or ``both``.
        others: runs to average with; their weights are loaded here, those of the first by the handler.
    """
    network = network_def
    if branch != "cnn":
        if not isinstance(network_def, UNet):
            raise SystemExit(f"error: expected branch cnn of a bundle of several networks, received {branch!r}.")
        network = BranchPredictor(NetworkPair(network_def, SwinUNet.from_plan(plan), outputs_of(plan)), branch)
    if not others:
        return network
    return Ensemble([network, *(_trained_network(run) for run in others)], outputs_of(plan))


def _trained_network(run: TrainedRun) -> nn.Module:
    state = load_tensors_or_exit(run.weights)
    members = count_members(state) if run.branch == "cnn" else 1
    network = predictor(network_from_plan(run.plan, members), run.plan, run.branch)
    try:
        for name, part in loadable(network).items():
            part.load_state_dict(state if run.branch == "cnn" else state[name])
    except RuntimeError as error:
        raise SystemExit(
            f"error: the weights in {run.folder} do not fit its plan.json, was it edited since? {error}"
        ) from None
    return network


def loadable(network: nn.Module) -> dict[str, nn.Module]:
    """What ``CheckpointLoader`` fills: ``model.pt`` is one state, ``pair.pt`` one for each branch; of several runs, the first."""
    if isinstance(network, Ensemble) and not isinstance(network, PackedEnsemble):
        return loadable(network.members[0])
    if isinstance(network, BranchPredictor):
        return {"cnn": network.pair.cnn, "transformer": network.pair.transformer}
    return {"model": network}


def further(
    trained: TrainedRun, device: torch.device | str, overlap: float | None = None, mirror: bool = False
) -> list[Configuration]:
    """The configurations that are averaged with the first, by ``best.json``; arguments as in ``configs/inference.json``."""
    return [
        Configuration(run.plan, run.network, window_inferer(run.plan, overlap, mirror), device)
        for run in trained.configurations
    ]


def postprocessing(
    plan: Plan,
    transform: Compose,
    output_dir: str | Path,
    save_probabilities: bool = False,
    largest: Sequence[Sequence[str]] = (),
    others: Sequence[Configuration] = (),
) -> Compose:
    """From logits ``pred`` to masks on the original grid, and to files.

    Args:
        plan: the plan.
        transform: the preprocessing that made the image.
        output_dir: where masks go.
        save_probabilities: write them as well, float32, one channel per class or region; it stays as the network gave it.
        largest: classes whose largest component is kept, together, step by step (``mcsc_bundle.postprocessing``).
        others: configurations to average with, on the original grid (``mcsc_bundle.joined``).
    """
    probabilities = "probabilities" if save_probabilities else None
    steps: list[MapTransform] = [RestoreMaskd("pred", plan, transform, "image", probabilities)]
    if others:
        steps = [RestoreJoinedd("pred", plan, transform, "image", probabilities, others=others)]
    if largest:
        steps.append(KeepLargestd("pred", largest, plan.scored_values))
    return Compose([*steps, SaveImageMaskd("pred", output_dir)])


def _chosen_or_exit(run_dir: str | Path | Sequence[str | Path]) -> list[Any]:
    try:
        return chosen_folders(Path(run_dir)) if isinstance(run_dir, (str, Path)) else [run_dir]
    except PlanError as error:
        raise SystemExit(f"error: {error}") from None


def _folders_or_exit(run_dir: str | Path | Sequence[str | Path]) -> list[Path]:
    try:
        return run_folders(run_dir)
    except EnsembleError as error:
        raise SystemExit(f"error: {error}") from None


def _same_plan_or_exit(one: TrainedRun, other: TrainedRun) -> None:
    try:
        check_same_plan(one.plan, one.folder, other.plan, other.folder)
    except EnsembleError as error:
        raise SystemExit(f"error: {error}") from None


class CaseDataset(Dataset):
    """Preprocessed cases; one that cannot be read gives its ``error`` in place of an image.

    Args:
        data: items with ``case`` and ``image`` (paths), or with the ``error`` that sets them aside.
        transform: ``preprocessing(plan, "image")``.
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Compose) -> None:
        super().__init__(data, transform)

    def _transform(self, index: int) -> dict[str, Any]:
        item, began = self.data[index], time.perf_counter()
        if "error" in item:
            return {"case": item["case"], "error": item["error"]}
        try:
            image = self.transform({"image": item["image"]})["image"]
        except Exception as error:  # whatever is wrong with one case, the others go on
            return {"case": item["case"], "error": reason(error)}
        image.meta |= {"case": item["case"], FILES: json.dumps(item["image"], default=str)}
        return {"case": item["case"], "image": image, "seconds": time.perf_counter() - began}


class CaseEvaluator(SupervisedEvaluator):
    """Evaluator that sets a failing case aside, and ends with a table and an exit code.

    Args:
        predictions: keeps the account.
        **kwargs: of ``SupervisedEvaluator``; the loader gives one case at a time.
    """

    def __init__(self, predictions: Predictions, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.predictions = predictions

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Predict the pending cases.

        Raises:
            SystemExit: the weights do not fit the plan, or Ctrl-C, with code 130.
        """
        if not self.predictions.pending:
            return
        self.predictions.begin()
        try:
            with stops_with(self._stopped):
                super().run(global_epoch)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise SystemExit(f"error: the weights do not fit plan.json, was it edited since? {error}") from None

    def _stopped(self) -> str:
        done = len(self.predictions.rows) - len(self.predictions.failed)
        return f"Stopped with {counted(done, 'mask')} written to {self.predictions.folder}; the same command makes the others."

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        case, began = batchdata["case"][0], time.perf_counter()
        if "error" in batchdata:
            self.predictions.fail(case, batchdata["error"][0])
            return {}
        try:
            super()._iteration(engine, batchdata)
            seconds = float(batchdata["seconds"][0]) + time.perf_counter() - began
            self.predictions.add(case, engine.state.output[0]["pred"], seconds)
        except Exception as error:  # out of memory, a full disk: the next case may be smaller, the disk may be emptied
            self.predictions.fail(case, reason(error))
            engine.state.output = {}
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return engine.state.output

    def finish(self, table: bool = True) -> None:
        """Join the accounts of all processes and show them.

        Args:
            table: voxels and millilitres per class; without, only what was set aside.

        Raises:
            SystemExit: code 1 if a case was set aside.
        """
        self.predictions.gather()
        if self.predictions.rank == 0 and table:
            log.info("Masks and summary.csv are in %s\n%s", self.predictions.folder, self.predictions.table())
        if self.predictions.failed:
            for case, error in sorted(self.predictions.failed.items()) if not table else ():
                log.error("set aside: %s: %s", case, error)
            raise SystemExit(1)
