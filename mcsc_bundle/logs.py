"""What a training tells while it goes on: each loss term and each validation, as CSV and on the console, and its pace."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

import torch
from ignite.engine import Events
from monai.engines import Evaluator

from mcsc_bundle.csv_log import WATCHED, CSVLog
from mcsc_bundle.handlers import is_main_process
from mcsc_bundle.trainer import MCSCTrainer

log = logging.getLogger(__name__)

METRIC = "val_mean_dice"  # of configs/train.yaml; its details are (cases, classes without background)


class Means:
    """Means of named scalars, without NaN and infinity, kept where these are: nothing is read from a GPU before the end."""

    def __init__(self) -> None:
        # of names that came together: the sums of their values, and how many were finite
        self.sums: dict[tuple[str, ...], torch.Tensor] = {}

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        """Another value of each."""
        if not values:
            return
        latest = torch.stack([value.float() for value in values.values()])
        finite = torch.isfinite(latest)
        both = torch.stack((torch.where(finite, latest, 0.0), finite.float()))
        names = tuple(values)
        self.sums[names] = self.sums[names] + both if names in self.sums else both

    def read(self) -> dict[str, float]:
        """The means; NaN where no value was finite."""
        totals: dict[str, list[float]] = {}
        for names, both in self.sums.items():
            for name, total, count in zip(names, *both.tolist(), strict=True):
                before = totals.setdefault(name, [0.0, 0.0])
                totals[name] = [before[0] + total, before[1] + count]
        return {name: total / count if count else float("nan") for name, (total, count) in totals.items()}


class LossLog:
    """Mean of the loss and of each named term per epoch, to ``log.csv`` and the console; one host read per epoch.

    ``log.csv`` also has what a method watches and the norm of the gradients before clipping, as ``watched_*``.

    Args:
        output_dir: the run folder.
    """

    def __init__(self, output_dir: str) -> None:
        self.csv = CSVLog(os.path.join(output_dir, "log.csv"))
        self.losses, self.watched = Means(), Means()
        self.steps, self.began = 0, 0.0
        self.pace = Pace()

    def attach(self, engine: MCSCTrainer) -> None:
        """Listen (attach after the ``CheckpointHandler``, whose resume this follows)."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: MCSCTrainer) -> None:
        self.csv.truncate(engine.state.iteration)
        self.pace = Pace()

    def _begin(self, engine: MCSCTrainer) -> None:
        self.losses, self.watched = Means(), Means()
        self.steps, self.began = 0, time.perf_counter()
        self.pace.begin(self.began)

    def _add(self, engine: MCSCTrainer) -> None:
        output = engine.state.output
        self.losses.add({"loss": output["loss"], **output["terms"]})
        self.watched.add(output["watched"])
        if "grad_norm" in output:  # not in the middle of an accumulated step
            self.watched.add({"grad_norm": output["grad_norm"]})
        self.steps += 1
        self.pace.step(time.perf_counter())

    def _write(self, engine: MCSCTrainer) -> None:
        if not is_main_process() or not self.steps:
            return
        seconds = time.perf_counter() - self.began
        means = self.losses.read()
        row = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "seconds": round(seconds, 2),
            "lr": engine.optimizer.param_groups[0]["lr"],
            "nonfinite_steps": engine.nonfinite_steps,
            **means,
            **{f"{WATCHED}{name}": value for name, value in self.watched.read().items()},
        }
        self.csv.append(row)
        terms = "  ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "loss")
        left = (engine.state.max_epochs - engine.state.epoch) * engine.state.epoch_length
        log.info(
            "epoch %d/%d  loss %.4f  (%s)%s",
            engine.state.epoch, engine.state.max_epochs, means["loss"], terms, self.pace.text(time.perf_counter(), left),
        )  # fmt: skip


class Pace:
    """How fast a training goes, and how long it still takes; the first step, which compiles and warms up, is left out."""

    def __init__(self) -> None:
        self.first_ended: float | None = None
        self.steps, self.last, self.seconds = 0, 0.0, 0.0

    def begin(self, now: float) -> None:
        """An epoch begins at ``now``, in seconds."""
        self.last = now

    def step(self, now: float) -> None:
        """A step ended at ``now``."""
        if self.first_ended is None:
            self.first_ended = now
        else:
            self.steps += 1
            self.seconds += now - self.last
        self.last = now

    def text(self, now: float, steps_left: int) -> str:
        """The mean time of a step, and what is left with validation and saving as often as so far; empty after one step."""
        if self.first_ended is None or not self.steps:
            return ""
        left = (now - self.first_ended) / self.steps * steps_left
        return f"  {self.seconds / self.steps:.2f} s/step" + (f", about {_duration(left)} left" if steps_left else "")


class ValidationLog:
    """Mean Dice and Dice of each class at every validation, to ``validation.csv`` and the console.

    The mean is MONAI's, over the cases, of each case's mean over its classes.

    Args:
        output_dir: the run folder.
        class_names: of the plan, background first.
        epoch_length: iterations of a training epoch.
    """

    def __init__(self, output_dir: str, class_names: tuple[str, ...], epoch_length: int) -> None:
        self.csv = CSVLog(os.path.join(output_dir, "validation.csv"))
        self.class_names, self.epoch_length = class_names, epoch_length

    def attach(self, engine: Evaluator) -> None:
        """Listen to the evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, engine: Evaluator) -> None:
        if not is_main_process():
            return
        epoch, iteration = engine.state.epoch, engine.state.epoch * self.epoch_length
        self.csv.truncate(iteration - 1)
        scores = engine.state.metric_details[METRIC].nanmean(0)  # type: ignore[attr-defined]
        per_class = dict(zip(self.class_names[1:], (round(float(score), 4) for score in scores), strict=True))
        mean = engine.state.metrics[METRIC]
        self.csv.append({"epoch": epoch, "iteration": iteration, "mean_dice": round(float(mean), 4), **per_class})
        log.info("validation after epoch %d: mean Dice %.4f  %s", epoch, mean, per_class)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
