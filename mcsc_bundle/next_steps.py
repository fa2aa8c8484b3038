"""What a training says when it is done: where the network is, how good it is as far as that is known, and what to type next."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from ignite.engine import Engine, Events

from mcsc_bundle.csv_log import read_rows
from mcsc_bundle.handlers import is_main_process
from mcsc_bundle.options import CommandLine, command_line
from mcsc_bundle.plan_files import folds_of
from mcsc_bundle.words import counted

log = logging.getLogger(__name__)


class NextSteps:
    """The last lines of a training. Commands are shown where the training was started by ``python -m monai.bundle``.

    Args:
        output_dir: the run folder.
        held_out: number of labelled cases that ``evaluate`` would score.
        validated: number of labelled cases that validation watches.
        val_interval: epochs from one validation to the next.
        unusable: number of labelled cases that would have validated or tested, and were set aside.
    """

    def __init__(
        self, output_dir: str, held_out: int = 0, validated: int = 0, val_interval: int = 1, unusable: int = 0
    ) -> None:
        self.folder, self.held_out, self.unusable = Path(output_dir), held_out, unusable
        self.validated, self.val_interval = validated, val_interval

    def attach(self, engine: Engine) -> None:
        """Listen (attach last)."""
        engine.add_event_handler(Events.COMPLETED, self.tell)

    def tell(self, engine: Engine) -> None:
        """Write the lines to the log."""
        if is_main_process():
            log.info("%s", "\n".join([*self._result(engine.state.epoch), *self._commands(command_line())]))

    def _result(self, epoch: int) -> list[str]:
        lines = [f"Done after {counted(epoch, 'epoch')}. The network: {self.folder / 'models' / 'model.pt'}"]
        validation = self.folder / "validation.csv"
        if not validation.exists():
            return [*lines, self._why_not_validated()]
        scores = {int(row["epoch"]): float(row["mean_dice"]) for row in read_rows(validation)}
        last, best = max(scores), max(scores, key=lambda key: scores[key])
        lines.append(
            f"Validation: mean Dice {scores[last]:.4f} after epoch {last}, at best {scores[best]:.4f} after epoch {best} "
            "(model_best.pt)."
        )
        return lines

    def _why_not_validated(self) -> str:
        if self.validated:
            return f"It was not validated: that happens every {counted(self.val_interval, 'epoch')} (--val_interval)."
        if self.held_out:
            return (
                "It was not validated while training: no label was spared for it, and the test cases are for the end."
            )
        if self.unusable:
            return (
                f"It was not validated: {counted(self.unusable, 'labelled case')} kept out of the training to score it could "
                f"not be used; {self.folder / 'rejected.json'} says why."
            )
        alone = "Every labelled case trained, so none is left to score it."
        if (self.folder / "splits.json").exists() and not folds_of(self.folder):
            return f"{alone} With one labelled patient no cross-validation can: look at its masks."
        return f"{alone} How good such a training is: python -m mcsc_bundle cross_validate DATA RUNS"

    def _commands(self, line: CommandLine | None) -> list[str]:
        if line is None or not line.config_files:
            return []
        lines = []
        main, *overlays = line.config_files
        inference, evaluate = (_beside(main, name) for name in ("inference", "evaluate"))
        if inference is not None:
            lines.append(
                f"Masks for new scans: python -m monai.bundle run --config_file {shlex.quote(inference)} "
                f"--dataset_dir NEW --output_dir MASKS --run_dir {shlex.quote(str(self.folder))}"
            )
        if evaluate is not None and self.held_out:
            files = ",".join(f"'{file}'" for file in (main, *overlays, evaluate))
            given = " ".join(
                f"--{name} {shlex.quote(text)}"
                for name, text in line.typed.items()
                if name not in ("config_file", "run_id")
            )
            lines.append(
                f"Scores of the {counted(self.held_out, 'labelled case')} that did not train: "
                f'python -m monai.bundle run evaluate --config_file "[{files}]" {given}'
            )
        return lines


def _beside(config: str, name: str) -> str | None:
    """The workflow of that name in the folder of another one."""
    found = [Path(config).with_name(name + suffix) for suffix in (Path(config).suffix, ".json", ".yaml")]
    return next((str(path) for path in found if path.exists()), None)
