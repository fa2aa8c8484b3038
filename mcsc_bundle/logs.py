"""What a training tells while it goes on: each loss term and each validation, as CSV and on the console, and its pace."""

from __future__ import annotations

import csv
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Evaluator

from mcsc_bundle.files import replacing
from mcsc_bundle.handlers import is_main_process
from mcsc_bundle.trainer import MCSCTrainer

log = logging.getLogger(__name__)


class CSVLog:
    """Appends one row per epoch to a CSV file; a resume first drops the rows after the point it goes on from.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def truncate(self, iteration: int) -> None:
        """Forget rows past ``iteration``: they belong to work that was lost."""
        if not self.path.exists():
            return
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [
                row for row in csv.DictReader(file) if row["iteration"].isdigit() and int(row["iteration"]) <= iteration
            ]
        self._write(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; new columns widen the file."""
        rows: list[Mapping[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        self._write([*rows, row])

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


class LossLog:
    """Mean of the loss and of each named term per epoch, to ``log.csv`` and the console; one host read per epoch.

    Args:
        output_dir: the run folder.
    """

    def __init__(self, output_dir: str) -> None:
        self.csv = CSVLog(os.path.join(output_dir, "log.csv"))
        self.sums: dict[str, torch.Tensor] = {}
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
        self.sums, self.steps, self.began = {}, 0, time.perf_counter()
        self.pace.begin(self.began)

    def _add(self, engine: MCSCTrainer) -> None:
        values = {"loss": engine.state.output["loss"], **engine.state.output["terms"]}
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value.float() if name in self.sums else value.float()
        self.steps += 1
        self.pace.step(time.perf_counter())

    def _write(self, engine: MCSCTrainer) -> None:
        if not is_main_process() or not self.steps:
            return
        seconds = time.perf_counter() - self.began
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        row = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "seconds": round(seconds, 2),
            "lr": engine.optimizer.param_groups[0]["lr"],
            "nonfinite_steps": engine.nonfinite_steps,
            **means,
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

    Args:
        output_dir: the run folder.
        class_names: of the plan, background first.
        epoch_length: iterations of a training epoch.
        metric: name of the per-class metric; its details are ``(cases, classes without background)``.
    """

    def __init__(
        self, output_dir: str, class_names: tuple[str, ...], epoch_length: int, metric: str = "val_mean_dice"
    ) -> None:
        self.csv = CSVLog(os.path.join(output_dir, "validation.csv"))
        self.class_names, self.epoch_length, self.metric = class_names, epoch_length, metric

    def attach(self, engine: Evaluator) -> None:
        """Listen to the evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, engine: Evaluator) -> None:
        if not is_main_process():
            return
        epoch, iteration = engine.state.epoch, engine.state.epoch * self.epoch_length
        self.csv.truncate(iteration - 1)
        scores = engine.state.metric_details[self.metric].nanmean(0)  # type: ignore[attr-defined]
        per_class = dict(zip(self.class_names[1:], (round(float(score), 4) for score in scores), strict=True))
        mean = engine.state.metrics[self.metric]
        self.csv.append({"epoch": epoch, "iteration": iteration, "mean_dice": round(float(mean), 4), **per_class})
        log.info("validation after epoch %d: mean Dice %.4f  %s", epoch, mean, per_class)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
