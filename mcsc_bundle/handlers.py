"""Checkpoints that resume; what else listens to the trainer is in ``mcsc_bundle.logs``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Evaluator
from torch import nn

from mcsc_bundle.claim import ClaimError, claim
from mcsc_bundle.files import replacing
from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.tensors import TensorFileError, load_tensors
from mcsc_bundle.trained import plan_record, refuse_edits, save_trained, tell_edits
from mcsc_bundle.trainer import CheckpointError, MCSCTrainer
from mcsc_bundle.words import counted

log = logging.getLogger(__name__)


def save_atomically(content: Any, path: Path) -> None:
    """``torch.save``, see ``mcsc_bundle.files``."""
    with replacing(path) as temporary:
        torch.save(content, temporary)


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


class CheckpointHandler:
    """Saves after every epoch and goes on from there at the next start.

    ``checkpoint.pt`` holds everything needed to go on; ``model.pt`` the network that is shipped, as it is now (the last
    one is used: with a handful of validation cases the best one is mostly luck); ``model_best.pt`` the same at the best
    validation; ``pair.pt`` all branches that inference can choose from; ``trained.json`` the plan that trains them.

    MONAI's ``CheckpointSaver`` and ``CheckpointLoader`` do not serve here: they forget the best metric on a resume, save the
    training state under a name that changes, and do not hold the scaler.

    Args:
        models_dir: folder of the files.
        evaluator: the validator whose best metric decides ``model_best.pt``; ``None`` without validation.
        interval: epochs between two saves; the last epoch is always saved.
        training_key: names the cases that train; a checkpoint of other cases is not gone on from, since what was kept out
            of one training may have trained the other.
        resumes: whether to go on from ``checkpoint.pt``; an application that asks for a training wants a new one.
        plan: kept with the weights, so that a later edit of it is noticed (see ``mcsc_bundle.trained``).
        labeled: names of the cases whose labels train, kept as well.
    """

    def __init__(
        self,
        models_dir: str,
        evaluator: Evaluator | None = None,
        interval: int = 1,
        training_key: str = "",
        resumes: bool = True,
        plan: Plan | None = None,
        labeled: Sequence[str] = (),
    ) -> None:
        self.folder, self.evaluator, self.interval = Path(models_dir), evaluator, interval
        self.plan, self.labeled = plan, labeled
        self.training_key, self.resumes = training_key, resumes

    def attach(self, engine: MCSCTrainer) -> None:
        """Listen: resume at the start, save after each epoch (attach after the ``ValidationHandler``)."""
        engine.add_event_handler(Events.STARTED, self.claim)
        if self.resumes:
            engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def claim(self, engine: MCSCTrainer) -> None:
        """Refuse to train where another process does.

        Raises:
            CheckpointError: one does.
        """
        if is_main_process():
            try:
                claim(self.folder)
            except ClaimError as error:
                raise CheckpointError(str(error)) from None

    def resume(self, engine: MCSCTrainer) -> None:
        """Load ``checkpoint.pt`` if there is one.

        Raises:
            CheckpointError: it cannot be read, or is of another training.
        """
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = _read_checkpoint(path)
        if state["training_key"] != self.training_key:
            raise CheckpointError(
                f"{path}: expected a training on these cases and labels, received one on others (of another fold?). Train with "
                "its own, or choose another output_dir."
            )
        if self.plan is not None:
            try:
                refuse_edits(state.get("plan", {}), self.plan, str(path))
            except PlanError as error:
                raise CheckpointError(str(error)) from None
            tell_edits(state.get("plan", {}), self.plan)
        engine.load_training_state(state)
        if self.evaluator is not None and state["best_metric"] is not None:
            self.evaluator.state.best_metric = state["best_metric"]
            self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        engine.checkpoint = (str(path), engine.state.epoch)
        if engine.state.epoch >= engine.state.max_epochs:
            log.info(
                "Training in %s is complete (%s); raise --max_epochs to go on.",
                self.folder,
                counted(engine.state.epoch, "epoch"),
            )
        else:
            log.info("Going on from %s after epoch %d.", path, engine.state.epoch)

    def save(self, engine: MCSCTrainer) -> None:
        """Write the files of this epoch; ``checkpoint.pt`` last, so that it never promises what is not there."""
        epoch = engine.state.epoch
        if not is_main_process() or (epoch % self.interval and epoch != engine.state.max_epochs):
            return
        best = best_epoch = None
        if self.plan is not None:
            save_trained(self.folder, self.plan, self.labeled)
        shipped = _plain_weights(engine.method.shipped)
        if self.evaluator is not None and self.evaluator.state.best_metric_epoch > 0:
            best, best_epoch = float(self.evaluator.state.best_metric), int(self.evaluator.state.best_metric_epoch)
            if best_epoch == epoch:
                save_atomically(shipped, self.folder / "model_best.pt")
        save_atomically(shipped, self.folder / "model.pt")
        save_atomically(
            {name: _plain_weights(net) for name, net in engine.method.branches().items()}, self.folder / "pair.pt"
        )
        state = engine.training_state()
        state |= {"best_metric": best, "best_metric_epoch": best_epoch, "training_key": self.training_key}
        if self.plan is not None:
            state["plan"] = plan_record(self.plan)
        save_atomically(state, self.folder / "checkpoint.pt")
        engine.checkpoint = (str(self.folder / "checkpoint.pt"), epoch)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The state.

    Raises:
        CheckpointError: damaged, or another kind of file.
    """
    try:
        state = load_tensors(path)
    except TensorFileError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(state, dict) or "training_key" not in state:
        raise CheckpointError(
            f"{path}: expected a checkpoint of a training, received another file. Delete it to train anew."
        )
    return state


def _plain_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}
