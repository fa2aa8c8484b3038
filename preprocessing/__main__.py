"""Command line of the stages before training.

python -m preprocessing DATASET --output_dir RUN [--num_labeled N ...]   measure, plan and preprocess a data set
python -m preprocessing show RUN                                         the plan with its reasons
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import fire

from mcsc_bundle.plan import Fingerprint, Plan
from preprocessing.explain import explain
from preprocessing.prepare import USER_ERRORS, prepare


def run(dataset_dir: str, output_dir: str, **options: object) -> None:
    """Measure, plan and preprocess a data set.

    Args:
        dataset_dir: folder of scans.
        output_dir: run folder to write.
        **options: see ``preprocessing.prepare.prepare``.
    """
    prepare(str(dataset_dir), str(output_dir), **options)  # type: ignore[arg-type]
    show(output_dir)


def show(run_dir: str) -> None:
    """Print the plan of a run folder with the reason for each choice."""
    folder = Path(str(run_dir))
    measured = folder / "fingerprint.json"
    fingerprint = Fingerprint.load(measured) if measured.exists() else None
    print(explain(Plan.load(folder / "plan.json"), fingerprint))


VERBS = {"run": run, "show": show}


def main(arguments: list[str]) -> None:
    """Dispatch; without a verb the first argument is the data set."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments and arguments[0] not in VERBS and not arguments[0].startswith("-"):
        arguments = ["run", *arguments]
    try:
        fire.Fire(VERBS, command=arguments, name="python -m preprocessing")
    except USER_ERRORS as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
