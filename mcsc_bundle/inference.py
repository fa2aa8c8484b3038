"""Masks for a folder of images: one case after the other, a bad one set aside, the rest goes on.

python -m monai.bundle run --config_file configs/inference.json --dataset_dir NEW --output_dir MASKS --run_dir RUN
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, MapTransform

from mcsc_bundle.cascade import PREVIOUS, WhenNeeded, input_transform
from mcsc_bundle.inferers import window_inferer
from mcsc_bundle.interrupt import stops_with
from mcsc_bundle.joined import FILES, Configuration, RestoreJoinedd
from mcsc_bundle.keep_largest import KeepLargestd
from mcsc_bundle.plan import Plan
from mcsc_bundle.predictions import Predictions
from mcsc_bundle.tensors import misfit
from mcsc_bundle.trained_run import TrainedRun
from mcsc_bundle.transforms import RestoreMaskd, reason
from mcsc_bundle.words import counted
from mcsc_bundle.writer import PROBABILITIES, SaveImageMaskd

__all__ = ["CaseDataset", "CaseEvaluator", "postprocessing", "window_inferer"]

log = logging.getLogger(__name__)


def further(trained: TrainedRun, **windows: Any) -> list[Configuration]:
    """The configurations that are averaged with the first, by ``best.json``; ``windows`` as of ``configuration_of``."""
    return [configuration_of(run, **windows) for run in trained.configurations]


def case_transform(trained: TrainedRun, plan: Plan, **windows: Any) -> Compose:
    """From the files of a case to what the networks of a run see; ``windows`` as of ``configuration_of``, of the stage before."""
    return input_transform(plan, _stage_before(trained, **windows))


def configuration_of(
    run: TrainedRun,
    device: torch.device | str,
    overlap: float | None = None,
    mirror: bool = True,
    amp_dtype: str | None = None,
) -> Configuration:
    """A trained run, ready to predict; of a cascade with the stage before. Arguments as in ``configs/inference.json``."""
    windows: dict[str, Any] = {"overlap": overlap, "mirror": mirror, "amp_dtype": amp_dtype}
    before = _stage_before(run, device=device, **windows)
    return Configuration(run.plan, run.network, window_inferer(run.plan, **windows), device, before)


def _stage_before(run: TrainedRun, **windows: Any) -> WhenNeeded | None:
    before = run.previous
    return None if before is None else WhenNeeded(lambda: configuration_of(before, **windows))


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
    probabilities = PROBABILITIES if save_probabilities else None
    steps: list[MapTransform] = [RestoreMaskd("pred", plan, transform, "image", probabilities)]
    if others:
        steps = [RestoreJoinedd("pred", plan, transform, "image", probabilities, others=others)]
    if largest:
        steps.append(KeepLargestd("pred", largest, plan.scored_values))
    return Compose([*steps, SaveImageMaskd("pred", output_dir)])


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
            image = self.transform({key: item[key] for key in ("image", PREVIOUS) if key in item})["image"]
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
            raise SystemExit(f"error: {misfit(error)}") from None

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

    def finish(self, table: bool = True, unscored: int = 0) -> None:
        """Join the accounts of all processes and show them.

        Args:
            table: voxels and millilitres per class; without, only what was set aside.
            unscored: number of cases that could not be scored, which the log has named.

        Raises:
            SystemExit: code 1 if a case was set aside, or not scored.
        """
        self.predictions.gather()
        if self.predictions.rank == 0 and table:
            log.info("Masks and summary.csv are in %s\n%s", self.predictions.folder, self.predictions.table())
        if self.predictions.failed:
            for case, error in sorted(self.predictions.failed.items()) if not table else ():
                log.error("set aside: %s: %s", case, error)
        if self.predictions.failed or unscored:
            raise SystemExit(1)
