"""A plan without any image: from our fingerprint, or from nnU-Net's fingerprint or plans."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcsc_bundle.plan import Fingerprint, Plan, PlanError
from preprocessing.nnunet import plan_from_nnunet
from preprocessing.nnunet_files import read_object
from preprocessing.nnunet_plans import import_nnunet_plans
from preprocessing.planner import make_plan


def plan_from_files(
    fingerprint: str | None = None,
    nnunet_plans: str | None = None,
    dataset_json: str | None = None,
    **options: Any,
) -> Plan:
    """Plan from whichever file there is.

    Args:
        fingerprint: nnU-Net's ``dataset_fingerprint.json`` with its ``dataset_json``, or our ``fingerprint.json``.
        nnunet_plans: ``nnUNetPlans.json`` with its ``dataset_json``.
        dataset_json: nnU-Net's ``dataset.json``.
        **options: of ``plan_from_nnunet``, ``make_plan`` or ``import_nnunet_plans``.

    Raises:
        PlanError: no file or two, one that cannot be used, an unknown option, an impossible plan.
    """
    if (fingerprint is None) == (nnunet_plans is None):
        raise PlanError(
            "plan: expected either --fingerprint dataset_fingerprint.json or --nnunet_plans nnUNetPlans.json, received "
            f"{'neither' if fingerprint is None else 'both'}. Give one of them, with --dataset_json dataset.json."
        )
    source = str(fingerprint if nnunet_plans is None else nnunet_plans)
    if fingerprint is not None and dataset_json is None and "cases" in read_object(source):
        _check_options(make_plan, options)
        return make_plan(Fingerprint.load(source), **options)
    if dataset_json is None:
        raise PlanError(
            f"{source}: expected nnU-Net's dataset.json with it, for labels and channels, received none. Give "
            f"--dataset_json {Path(source).parent / 'dataset.json'} or wherever it lies."
        )
    make = plan_from_nnunet if nnunet_plans is None else import_nnunet_plans
    _check_options(make, options)
    return make(source, str(dataset_json), **options)


def _check_options(make: Callable[..., Plan], options: dict[str, Any]) -> None:
    known = [name for name, entry in inspect.signature(make).parameters.items() if entry.default is not entry.empty]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise PlanError(f"plan: expected options of {known}, received {unknown}. Leave them out, or correct them.")
