"""The trainings of ``benchmarks.label_efficiency``, their settings, and what of them cannot be done."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.label_protocols import PROTOCOLS
from mcsc_bundle.options import OptionError, check_options
from preprocessing.dataset import DatasetError, read_dataset

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """One training: a method, or one with some settings changed, on a number of labelled cases (``None``: all).

    A variant whose name begins with that of a method, as ``supervised EMA``, is one of it; any other is one of ``mcsc``.
    """

    name: str
    budget: int | None
    seed: int
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        first = self.name.split(" ")[0]
        return first if first in ("full", *methods()) else "mcsc"

    @property
    def folder(self) -> str:
        return f"{re.sub('[^A-Za-z0-9]+', '_', self.name)}_{'all' if self.budget is None else self.budget}_{self.seed}"


def methods() -> list[str]:
    """Names of the default method and of every overlay ``configs/method_*.yaml``."""
    return ["mcsc", *sorted(path.stem.removeprefix("method_") for path in (ROOT / "configs").glob("method_*.yaml"))]


def config_files(method: str) -> list[str]:
    """The main config and, but for the default method, its overlay."""
    files = [str(ROOT / "configs" / "train.yaml")]
    if method not in ("mcsc", "full"):
        files.append(str(ROOT / "configs" / f"method_{method}.yaml"))
    if method == "full":  # the upper bound: every label, supervised
        files.append(str(ROOT / "configs" / "method_supervised.yaml"))
    return files


def settings(arguments: argparse.Namespace, job: Job) -> dict[str, Any]:
    """The config overrides of a job but for its folders.

    Raises:
        ValueError: ``--iterations`` is no whole number of epochs.
    """
    protocol = PROTOCOLS[arguments.protocol]
    given = protocol.overrides | json_object("--overrides", arguments.overrides) | job.overrides
    length, iterations = given.get("epoch_length", protocol.epoch_length), arguments.iterations or protocol.iterations
    if iterations % length and "max_epochs" not in given:
        raise ValueError(
            f"--iterations: expected a multiple of {length}, the length of an epoch, received {iterations}."
        )
    overrides = {
        "num_labeled": job.budget,
        "num_test": arguments.num_test,
        "split_seed": job.seed,
        "seed": job.seed,
        "fold": "all",
        "epoch_length": length,
        "max_epochs": iterations // length,
        "val_interval": 10**6,
        **given,
    }
    splits = named_splits(arguments.splits)
    if splits:
        part = {
            "split_file": splits["all" if job.budget is None else str(job.budget)].replace("{seed}", str(job.seed)),
            "num_labeled": None,
            "num_test": None,
        }
        overrides |= part
    return overrides


def named_splits(text: str) -> dict[str, str]:
    """``--splits``: the file of each budget."""
    return dict(entry.split("=", 1) for entry in text.split(",")) if text else {}


def json_object(option: str, text: str) -> dict[str, Any]:
    """What an option holds.

    Raises:
        ValueError: no JSON object.
    """
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f'{option}: expected a JSON object such as {{"lr": 0.01}}, received {text!r}.')
    return content


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers with commas between them.

    Raises:
        ValueError: something else.
    """
    try:
        return [int(each) for each in text.split(",") if each]
    except ValueError:
        raise ValueError(f"{option}: expected whole numbers with commas between them, received {text!r}.") from None


def all_jobs(arguments: argparse.Namespace) -> list[Job]:
    """Seed by seed, so that an interrupted table is complete for the seeds it has.

    Raises:
        ValueError: an option that cannot be read.
    """
    seeds = whole_numbers("--seeds", arguments.seeds)
    if "," not in arguments.seeds:  # `3` are seeds 0, 1 and 2; `0,2` and `2,` are those that are named
        seeds = list(range(seeds[0])) if seeds else []
    variants: dict[str, dict[str, Any]] = {method: {} for method in arguments.methods.split(",")}
    for text in arguments.variant:
        name, _, overrides = text.partition("=")
        variants[name] = json_object(f"--variant {name}", overrides)
    jobs = [
        Job(name, budget, seed, overrides)
        for seed in seeds
        for budget in whole_numbers("--budgets", arguments.budgets)
        for name, overrides in variants.items()
    ]
    return jobs + ([Job("full", None, seed) for seed in seeds] if arguments.upper_bound else [])


def impossible(arguments: argparse.Namespace) -> str:
    """What cannot be done, found before the first training; empty if all can."""
    try:
        jobs = all_jobs(arguments)
        given = json_object("--overrides", arguments.overrides)
        for job in jobs:
            # methods that have no deep supervision need not be left out of the command
            overrides = {key: value for key, value in (given | job.overrides).items() if key != "deep_supervision"}
            try:
                check_options(config_files(job.method), overrides)
            except OptionError as error:
                return f"{job.name}: {error}"
        return _too_few_labels(arguments, [settings(arguments, job) for job in _without_result(arguments, jobs)])
    except ValueError as error:
        return str(error)


def result_file(arguments: argparse.Namespace, job: Job) -> Path:
    """What a job leaves."""
    return Path(arguments.results or arguments.output_dir) / f"{job.folder}.json"


def _without_result(arguments: argparse.Namespace, jobs: list[Job]) -> Iterator[Job]:
    return (job for job in jobs if not result_file(arguments, job).exists())


def _too_few_labels(arguments: argparse.Namespace, wanted: list[dict[str, Any]]) -> str:
    drawn = [each for each in wanted if each["num_labeled"] is not None and not each.get("split_file")]
    if not drawn or not Path(arguments.dataset_dir).is_dir():
        return ""
    try:
        labelled = sum(case.label is not None for case in read_dataset(arguments.dataset_dir).cases)
    except DatasetError as error:
        return str(error)
    train, test = max(((each["num_labeled"], each["num_test"] or 0) for each in drawn), key=sum)
    if labelled >= train + test:
        return ""
    return (
        f"{arguments.dataset_dir} has {labelled} labelled cases; expected at least {train} to train (--budgets) and "
        f"{test} to test (--num_test)."
    )
