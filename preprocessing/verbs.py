"""What ``python -m preprocessing`` can do: each verb calls what does the work, and prints."""

from __future__ import annotations

import inspect
from pathlib import Path

from mcsc_bundle.option_values import check_values
from mcsc_bundle.options import check_names
from mcsc_bundle.plan import Fingerprint, Plan
from mcsc_bundle.plan_files import load_json
from mcsc_bundle.words import counted
from preprocessing.advice import label_advice
from preprocessing.check import check as check_cases
from preprocessing.check import table
from preprocessing.clean import find_unused, listing, remove
from preprocessing.explain import explain
from preprocessing.export import export as export_dataset
from preprocessing.plan_from_files import plan_from_files
from preprocessing.prepare import prepare
from preprocessing.run_plan import PLANNED
from preprocessing.split import Split, make_split


def run(dataset_dir: str, output_dir: str, **options: object) -> None:
    """Measure, plan and preprocess a data set.

    Args:
        dataset_dir: folder of scans.
        output_dir: run folder to write.
        **options: see ``preprocessing.prepare.prepare``.
    """
    check_names(options, inspect.signature(prepare).parameters)
    prepare(str(dataset_dir), str(output_dir), **options)  # type: ignore[arg-type]
    show(output_dir)


def show(run_dir: str) -> None:
    """Print the plan of a run folder with the reason for each choice; what was edited by hand is marked."""
    folder = Path(str(run_dir))
    measured, planned = folder / "fingerprint.json", folder / PLANNED
    fingerprint = Fingerprint.load(measured) if measured.exists() else None
    before = Plan.load(planned) if planned.exists() else None
    splits = folder / "splits.json"
    advice = label_advice(load_json(splits, Split)) if splits.exists() else ()
    print(explain(Plan.load(folder / "plan.json"), fingerprint, before, advice))


def plan(
    output: str,
    dataset_json: str | None = None,
    fingerprint: str | None = None,
    nnunet_plans: str | None = None,
    **options: object,
) -> None:
    """Write a plan from files alone, without any image.

    Args:
        output: ``plan.json`` to write; in a run folder, training takes it as it stands.
        dataset_json: nnU-Net's, beside either of its files.
        fingerprint: nnU-Net's ``dataset_fingerprint.json``, or a ``fingerprint.json`` of ours (without dataset_json).
        nnunet_plans: nnU-Net's ``nnUNetPlans.json``, instead of a fingerprint.
        **options: see ``plan_from_nnunet``, ``make_plan`` and ``import_nnunet_plans``.
    """
    # a device need not be here, and in the config of a training ``networks`` is a part instead of pair or cnn
    check_values({name: value for name, value in options.items() if name not in ("device", "networks")})
    made = plan_from_files(fingerprint, nnunet_plans, dataset_json, **options)
    made.save(str(output))
    print(explain(made))


def check(folder: str, workers: int | None = None, cache_dir: str | None = None) -> None:
    """Read every case of a data set, or every stored case of a run, and print what is wrong. Exits 1 if any is rejected, or
    none could be read.

    Args:
        folder: data set or run folder.
        workers: processes; ``None`` takes what cores, memory and the amount of data suggest.
        cache_dir: of a run whose preprocessed cases lie elsewhere.
    """
    findings, notes = check_cases(Path(str(folder)), workers, Path(str(cache_dir)) if cache_dir else None)
    print(table(findings, notes))
    if not findings or any(finding.problem for finding in findings):
        raise SystemExit(1)


def clean(run_dir: str, dry_run: bool = False) -> None:
    """Remove stored cases that no plan of the run uses any more, and list what that frees.

    Args:
        run_dir: the run folder.
        dry_run: list only.
    """
    unused = find_unused(Path(str(run_dir)))
    text = listing(unused, removed=not dry_run)
    if not dry_run:
        remove(unused)
    print(text)


def export(dataset_dir: str, output_dir: str, dataset_id: int, **options: object) -> None:
    """Write a data set in nnU-Net's folder layout.

    Args:
        dataset_dir: folder of scans.
        output_dir: nnU-Net's ``nnUNet_raw``.
        dataset_id: 1 to 999.
        **options: see ``preprocessing.export.export``.
    """
    accepted = {**inspect.signature(export_dataset).parameters, **inspect.signature(make_split).parameters}
    check_names(options, accepted)
    folder, rejected = export_dataset(str(dataset_dir), str(output_dir), dataset_id, **options)  # type: ignore[arg-type]
    print(f"{folder}: exported; {counted(len(rejected), 'case')} left out.")
