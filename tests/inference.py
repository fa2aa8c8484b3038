"""A trained run as far as inference can tell, and ``run inference`` on it in this process."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from mcsc_bundle.networks import NetworkPair
from tests.plans import make_plan

CONFIG = Path(__file__).parents[1] / "configs" / "inference.json"


def trained_run(folder: Path) -> Path:
    """``RUN`` in ``folder``, of networks that learnt nothing."""
    torch.manual_seed(0)
    plan = make_plan("anisotropic", inference_overlap=0.0)
    pair = NetworkPair.from_plan(plan)
    (folder / "RUN" / "models").mkdir(parents=True)
    plan.save(folder / "RUN" / "plan.json")
    torch.save(pair.cnn.state_dict(), folder / "RUN" / "models" / "model.pt")
    branches = {"cnn": pair.cnn.state_dict(), "transformer": pair.transformer.state_dict()}
    torch.save(branches, folder / "RUN" / "models" / "pair.pt")
    return folder / "RUN"


def infer(images: Path, run_dir: Path, output_dir: Path, **options: Any) -> None:
    """As the command does it, on the CPU."""
    workflow = ConfigWorkflow(
        config_file=str(CONFIG),
        workflow_type="infer",
        logging_file=False,
        dataset_dir=str(images),
        output_dir=str(output_dir),
        run_dir=str(run_dir),
        device="cpu",
        **options,
    )
    workflow.initialize()
    workflow.run()


def summary(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of ``summary.csv`` by case."""
    with (folder / "summary.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}
