"""What a training or a packed bundle left, checked before it predicts; and the network made of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from mcsc_bundle.choice import chosen_folders
from mcsc_bundle.ensemble import (
    FOLD,
    Ensemble,
    EnsembleError,
    PackedEnsemble,
    check_same_plan,
    count_members,
    network_from_plan,
    run_folders,
)
from mcsc_bundle.first_stage import FILE, check_stage, previous_dir
from mcsc_bundle.joined import check_joinable
from mcsc_bundle.networks import BranchPredictor, NetworkPair, SwinUNet, UNet
from mcsc_bundle.networks.pair import BRANCHES
from mcsc_bundle.outputs import outputs_of
from mcsc_bundle.plan import Plan, PlanError, to_plain
from mcsc_bundle.postprocessing import groups_or_exit
from mcsc_bundle.shipped import BundleError, check_code, check_metadata, check_weights
from mcsc_bundle.tensors import load_tensors_or_exit, misfit
from mcsc_bundle.trained import check_trained, mirrored_in_training

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
        self.packed = plan is not None
        with _or_exit():
            first, *configurations = chosen_folders(Path(run_dir)) if isinstance(run_dir, (str, Path)) else [run_dir]
            self.folder, *others = run_folders(first, complete=True)
        if plan is None and not (self.folder / "plan.json").exists():
            kinds = "run" if option == "output_dir" else "run or packed bundle"
            raise SystemExit(
                f"error: --{option}: expected the folder of a {kinds}, received {self.folder}, which holds no plan.json. "
                f"Give the --output_dir of the training{'' if option == 'output_dir' else f' as --{option}'}."
            )
        with _or_exit():
            if code is not None:
                check_code(code)
            self.plan = self._plan(plan)
            if not self.packed or (self.folder / "plan.json").exists():  # elsewhere no bundle, but e.g. this repository
                check_metadata(self.folder, self.plan)
        self.others = self._runs_of_this_plan(others)
        if option == "output_dir" and (others or configurations):
            raise SystemExit(
                f"error: --output_dir: expected the folder of one training to evaluate, received {self.run_dir}, which holds "
                "several. cross_validation.csv in it has the scores of every case by the fold that left it out. To evaluate a "
                "fold by itself, give its own folder."
            )
        self.configurations = self._further(first, configurations)

    def _plan(self, plan: Plan | None) -> Plan:
        path = self.folder / "plan.json"
        source = str(path) if plan is None else f"the plan in the configs of {self.folder}"
        plan = Plan.load(path) if plan is None else plan
        check_trained(self.folder / "models", plan, source)
        return mirrored_in_training(self.folder / "models", plan)

    def _runs_of_this_plan(self, folders: Sequence[Path]) -> list[TrainedRun]:
        runs = [TrainedRun([folder], self.branch, option=self.option) for folder in folders]
        with _or_exit():
            for run in runs:
                check_same_plan(self.plan, self.folder, run.plan, run.folder)
        if runs:
            log.info("Averaging the networks of %s.", ", ".join(map(str, (self.folder, *folders))))
        return runs

    def _further(self, first: Any, folders: Sequence[Any]) -> list[TrainedRun]:
        """The configurations that ``best.json`` names after the first."""
        runs = [TrainedRun(folder, self.branch, option=self.option) for folder in folders]
        if runs:
            log.info("Averaging the configurations %s.", ", ".join(map(str, (first, *folders))))
            with _or_exit():
                check_joinable({str(run.folder): run.plan for run in (self, *runs)})
        return runs

    @property
    def all_weights(self) -> list[Path]:
        """The files of all runs; the first is ``weights``."""
        own = [self.weights, *(run.weights for run in self.others)]
        own += [] if self.previous is None else self.previous.all_weights
        return own + [path for run in self.configurations for path in run.all_weights]

    @property
    def other_plans(self) -> list[dict[str, Any]]:
        """Those of a cascade's first stage and of further configurations, as ``plan.json`` has them."""
        stages = [*([] if self.previous is None else [self.previous]), *self.configurations]
        return [content for run in stages for content in (to_plain(run.plan), *run.other_plans)]

    @property
    def network(self) -> nn.Module:
        """The trained network, all runs averaged."""
        one = trained_network(self)
        if not self.others:
            return one
        return Ensemble([one, *(trained_network(run) for run in self.others)], outputs_of(self.plan))

    @cached_property
    def previous(self) -> TrainedRun | None:
        """The stage before, of a cascade; the folds of one cascade have the same."""
        if not self.plan.previous_stage:
            return None
        with _or_exit():
            folder = previous_dir(self.folder)
        if folder is None or not folder.exists():
            raise SystemExit(
                f"error: expected the runs of {self.plan.previous_stage} in {folder or 'a folder'}, which {self.folder / FILE} "
                "names and which does not exist. Put them back, or correct the path in that file."
            )
        with _or_exit():
            for run in (self, *self.others):
                check_stage(run.folder, folder)
        return TrainedRun(run_folders(folder))  # some folds may be enough, as they were in training

    def postprocessing(self, choice: bool | str = True) -> list[tuple[str, ...]]:
        """Classes whose largest component is kept, together, step by step.

        Args:
            choice: ``True``: what ``postprocessing.json`` in ``run_dir`` says, or in the folder of the cross-validation that it
                is a fold of; where neither has one, and of a list of runs, the plan. ``False``: none. Or the path of such a file.
        """
        folder = self.run_dir if isinstance(self.run_dir, (str, Path)) else None
        return groups_or_exit(folder, choice, self.plan.scored_values, self.plan.largest_component)

    def scored_postprocessing(self, choice: bool | str | None = None) -> list[tuple[str, ...]]:
        """``postprocessing`` of masks that are scored.

        Args:
            choice: as there; ``None``: as inference has it, but in a fold of a cross-validation none, since what inference will
                keep is decided on those masks.
        """
        if choice is None:
            folder = None if not isinstance(self.run_dir, (str, Path)) else Path(os.path.abspath(self.run_dir))
            choice = folder is None or FOLD.fullmatch(folder.name) is None
        return self.postprocessing(choice)

    @cached_property
    def weights(self) -> Path:
        """The file to load, which can be read; that of a packed bundle has the checksum of its metadata."""
        path = self.folder / "models" / ("model.pt" if self.branch == "cnn" else "pair.pt")
        if not path.exists():
            remedy = f"Train first, or give the folder of another training as --{self.option}."
            if self.packed:
                remedy = "Give the folder of the bundle as --bundle_root. If that is it, large_files.yml says where weights lie."
            if self.branch != "cnn":
                remedy = (
                    f"A packed bundle may hold the CNN alone: use --branch cnn, or the --{self.option} of the training."
                )
            raise SystemExit(f"error: expected weights in {path}, which does not exist. {remedy}")
        with _or_exit():
            check_weights(self.folder, path)
        if "transformer" not in load_tensors_or_exit(path) and self.branch != "cnn":
            raise SystemExit(
                f"error: expected a CNN and a Transformer in {path}, found no Transformer: the method trained without. "
                "For two networks train with MCSC or cross teaching; masks of the CNN are those of --branch cnn."
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
    return Ensemble([network, *(trained_network(run) for run in others)], outputs_of(plan))


def trained_network(run: TrainedRun) -> nn.Module:
    """The network of one run with its weights, of ``run.branch``; without the runs that it is averaged with.

    Raises:
        SystemExit: they are not of the network in the plan.
    """
    state = load_tensors_or_exit(run.weights)
    members = count_members(state) if run.branch == "cnn" else 1
    network = predictor(network_from_plan(run.plan, members), run.plan, run.branch)
    try:
        for name, part in loadable(network).items():
            part.load_state_dict(state if run.branch == "cnn" else state[name])
    except RuntimeError as error:
        raise SystemExit(f"error: {misfit(error, run.weights)}") from None
    return network


def loadable(network: nn.Module) -> dict[str, nn.Module]:
    """What ``CheckpointLoader`` fills: ``model.pt`` is one state, ``pair.pt`` one for each branch; of several runs, the first."""
    if isinstance(network, Ensemble) and not isinstance(network, PackedEnsemble):
        return loadable(network.members[0])
    if isinstance(network, BranchPredictor):
        return {"cnn": network.pair.cnn, "transformer": network.pair.transformer}
    return {"model": network}


@contextmanager
def _or_exit() -> Iterator[None]:
    """A user's mistake ends the program with its message instead of a traceback."""
    try:
        yield
    except (BundleError, EnsembleError, PlanError) as error:
        raise SystemExit(f"error: {error}") from None
