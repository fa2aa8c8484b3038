"""Whether a bundle is in order: first what can be seen without running it, then, if that is safe, by running it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bundle.archive import unpack_zip
from bundle.checks import STATIC
from bundle.checks_of_content import expressions, targets
from bundle.facts import PackError
from bundle.torchscript import last_line, run_monai
from mcsc_bundle.plan import Plan, PlanError

DYNAMIC = ("targets resolve", "properties", "network in and out", "TorchScript", "runs elsewhere")
TRAINS = "trains and evaluates"
ELSEWHERE = "a place with spaces"


@dataclass(frozen=True)
class Point:
    """One line of the checklist.

    Args:
        name: what was checked.
        passed: ``None`` if it was not tried.
        detail: what was seen, or the reason.
    """

    name: str
    passed: bool | None
    detail: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAIL", None: "not tried"}[self.passed]
        return f"[{mark:^9}] {self.name}: {self.detail}"


@dataclass(frozen=True)
class Checklist:
    """What was found.

    Args:
        points: in the order they were checked.
        expressions: every ``$`` expression of the configs, with its place: Python that runs when the bundle is used.
    """

    points: tuple[Point, ...]
    expressions: tuple[str, ...]

    @property
    def failed(self) -> tuple[Point, ...]:
        """The points that did not pass."""
        return tuple(point for point in self.points if point.passed is False)


def verify(path: str | Path, run: bool = True, train: bool = False) -> Checklist:
    """The checklist of a bundle.

    Args:
        path: its folder or zip.
        run: also execute it: its configs hold Python, and so does its package. Points that need it are tried only if all
            others passed.
        train: also train it for two steps and evaluate that, as the zoo's unit tests do.

    Raises:
        PackError: no such bundle, or a zip that would write outside its folder.
    """
    source = Path(path).resolve()
    if not source.exists():
        raise PackError(f"expected the folder or the zip of a bundle, received {path}, which does not exist.")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        bundle = source if source.is_dir() else unpack_zip(source, work / "unpacked")
        points = [_static(name, bundle) for name in STATIC]
        safe = all(point.passed for point in points)
        if run and safe:
            points += _dynamic(bundle, work, train)
        else:
            why = "--run False" if safe else "a bundle with faults is not run"
            points += [Point(name, None, why) for name in (*DYNAMIC, *([TRAINS] if train else []))]
        return Checklist(tuple(points), tuple(_expressions(bundle)))


def report(path: str, run: bool = True, train: bool = False) -> None:
    """Print every expression of a bundle's configs, then its checklist.

    Args:
        path: its folder or zip.
        run: False looks at it without running any of its code.
        train: also train it for two steps and evaluate.

    Raises:
        SystemExit: code 1 if a point failed.
    """
    checklist = verify(path, run, train)
    print(f"Python in its configs: {len(checklist.expressions)} expressions")
    print("".join(f"    {line}\n" for line in checklist.expressions))
    for point in checklist.points:  # last, where it is read
        print(point)
    if checklist.failed:
        names = ", ".join(point.name for point in checklist.failed)
        raise SystemExit(f"{len(checklist.failed)} of {len(checklist.points)} points FAILED: {names}")
    tried = sum(point.passed is not None for point in checklist.points)
    print(f"{tried} of {len(checklist.points)} points tried, all passed")


def _expressions(bundle: Path) -> list[str]:
    try:
        return expressions(bundle)
    except PlanError:  # a config that is no JSON; a point says so
        return []


def _dynamic(bundle: Path, work: Path, train: bool) -> list[Point]:
    """Points that run a copy of the bundle, which so stays as it is."""
    copy = work / ELSEWHERE / bundle.name
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))  # nothing that was not looked at
    data = make_dataset(Plan.load(copy / "plan.json"), work / "data")
    points = [*_probe(copy, data, work), _runs_elsewhere(copy, work)]
    return [*points, _trains(copy, data, work)] if train else points


def _static(name: str, bundle: Path) -> Point:
    try:
        return Point(name, True, STATIC[name](bundle))
    except (PackError, PlanError) as error:
        return Point(name, False, str(error))
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        return Point(name, False, f"could not be checked: {type(error).__name__}: {error}")


def _probe(bundle: Path, data: Path, work: Path) -> list[Point]:
    environment = {**os.environ, "PYTHONPATH": str(bundle), "PYTHONDONTWRITEBYTECODE": "1"}
    probe = str(Path(__file__).with_name("probe.py"))
    command = [sys.executable, "-P", "-W", "ignore", probe, str(bundle), str(data), str(work)]
    command.append(json.dumps(targets(bundle)))
    ended = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    try:
        seen = json.loads(last_line(ended.stdout))
    except json.JSONDecodeError:
        return [Point(name, False, last_line(ended.stderr)) for name in DYNAMIC[:-1]]
    return [Point(name, *result) for name, result in seen.items()]


def _runs_elsewhere(bundle: Path, work: Path) -> Point:
    """Inference by ``monai.bundle run`` from a foreign folder, the bundle in a path with spaces, nothing on the path."""
    plan = Plan.load(bundle / "plan.json")
    images, masks, foreign = work / ELSEWHERE / "new scans", work / ELSEWHERE / "masks", work / "foreign"
    make_images(plan, images, 2)
    foreign.mkdir()
    ended = run_monai(
        bundle, "run", cwd=foreign, path=False, config_file=bundle / "configs" / "inference.json", bundle_root=bundle,
        dataset_dir=images, output_dir=masks, device="cpu",
    )  # fmt: skip
    if ended.returncode:
        return Point("runs elsewhere", False, last_line(ended.stderr))
    for case in ("case_0", "case_1"):
        scan: Any = nib.load(next(images.glob(f"{case}*")))
        if not (masks / f"{case}.nii.gz").exists():
            return Point("runs elsewhere", False, f"no mask of {case}")
        mask: Any = nib.load(masks / f"{case}.nii.gz")
        if mask.shape != scan.shape or not np.array_equal(mask.affine, scan.affine):
            return Point("runs elsewhere", False, f"the mask of {case} lies on another grid than its scan")
        if not set(np.unique(np.asarray(mask.dataobj)).tolist()) <= set(plan.label_values):
            return Point("runs elsewhere", False, f"the mask of {case} has values that plan.json does not name")
    return Point("runs elsewhere", True, f"2 random scans from a foreign folder, the bundle in {ELSEWHERE!r}")


def _trains(bundle: Path, data: Path, work: Path) -> Point:
    """Two steps of training on random scans with the bundle's plan, then its evaluation, as the zoo's unit tests."""
    run, scores = work / "run", work / "scores"
    train, configs = bundle / "configs" / "train.json", bundle / "configs"
    common: dict[str, Any] = {
        "cwd": work,
        "path": False,
        "bundle_root": bundle,
        "dataset_dir": data,
        "device": "$torch.device('cpu')",
    }
    short: dict[str, Any] = {"epoch_length": 2, "max_epochs": 1, "workers": 1, "num_labeled": 2, "num_test": 1}
    ended = run_monai(bundle, "run", **common, **short, config_file=train, output_dir=run)
    if ended.returncode or not (run / "models" / "model.pt").exists():
        return Point(TRAINS, False, f"training: {last_line(ended.stderr)}")
    both = f"['{configs / 'train.json'}','{configs / 'evaluate.json'}']"
    options: tuple[dict[str, Any], ...] = ({}, {"run_dir": run})
    for extra in options:
        output = scores / ("of the run" if extra else "of the bundle")
        ended = run_monai(bundle, "run", **common, **extra, config_file=both, output_dir=output)
        if ended.returncode or not (output / "metrics.csv").exists():
            return Point(TRAINS, False, f"evaluation: {last_line(ended.stderr)}")
    return Point(TRAINS, True, "two steps on random scans; scores of the bundle and of that training")


def make_dataset(plan: Plan, folder: Path) -> Path:
    """Four labelled random scans in nnU-Net's layout."""
    make_images(plan, folder / "imagesTr", 4, folder / "labelsTr")
    labels = plan.scored_values if plan.ignore_value is None else {**plan.scored_values, "ignore": plan.ignore_value}
    declared = {"channel_names": dict(enumerate(plan.channel_names)), "labels": labels, "file_ending": ".nii.gz"}
    if plan.regions:
        declared["regions_class_order"] = [plan.labels[name] for name in plan.regions]
    (folder / "dataset.json").write_text(json.dumps({**declared, "numTraining": 4}), encoding="utf-8")
    return folder


def make_images(plan: Plan, folder: Path, count: int, labels: Path | None = None) -> None:
    """Random scans on the plan's spacing, about a window large, and random label maps for them.

    Args:
        plan: channels, dimensions, spacing, classes.
        folder: of the images, named ``case_0.nii.gz``, or with channels ``case_0_0000.nii.gz``, ...
        count: how many.
        labels: folder of label maps; ``None`` for none.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    shape = tuple(max(6, size * 3 // 4) for size in plan.image_patch_size)
    affine = np.diag([*(size or 1.0 for size in plan.spacing_mm), *([1.0] * (4 - plan.image_dims))])
    for index in range(count):
        for channel in range(plan.in_channels):
            ending = f"_{channel:04d}" if plan.in_channels > 1 or labels is not None else ""
            scan = rng.uniform(1, 100, shape).astype(np.float32)
            nib.save(nib.Nifti1Image(scan, affine), folder / f"case_{index}{ending}.nii.gz")
        if labels is not None:
            labels.mkdir(parents=True, exist_ok=True)
            values = [*plan.label_values, *([] if plan.ignore_value is None else [plan.ignore_value])]
            classes = np.array(values, np.int16)[rng.integers(0, len(values), shape)]
            nib.save(nib.Nifti1Image(classes, affine), labels / f"case_{index}.nii.gz")
