"""A small data set and the commands a user types, for the end-to-end tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from preprocessing.phantom import make_phantom_dataset

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"epoch_length": 2, "max_epochs": 2, "workers": 1, "check_memory": False}


def small_dataset(folder: Path, **numbers: int) -> Path:
    """Three labelled, two unlabelled and one test phantom."""
    return make_phantom_dataset(folder, **{"labeled": 3, "unlabeled": 2, "test": 1, **numbers})


def workflow(configs: list[str], workflow_type: str = "train", **overrides: Any) -> ConfigWorkflow:
    """The product's configs as ``monai.bundle run`` loads them."""
    made = ConfigWorkflow(
        config_file=[str(ROOT / "configs" / name) for name in configs],
        workflow_type=workflow_type,
        logging_file=False,
        **{"bundle_root": str(ROOT), **overrides},
    )
    made.initialize()
    return made


def train(dataset: Path, run: Path, *overlays: str, **overrides: Any) -> Path:
    """Train briefly; returns the shipped weights."""
    made = workflow(["train.yaml", *overlays], dataset_dir=str(dataset), output_dir=str(run), **{**SHORT, **overrides})
    made.run()
    return run / "models" / "model.pt"


def command(*words: str, cwd: Path = ROOT, **options: Any) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run ...`` in a process of its own."""
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", *words, *flags],
        cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
