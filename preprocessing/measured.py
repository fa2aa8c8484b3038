"""The planned step, taken once for real before training: does it fit the memory it was planned for?

The planner counts feature maps, which says little about what a library allocates beside them. So a process of its own takes
two steps of MCSC (or of the CNN alone) on noise, at the plan's patch and batch; the second holds the optimiser's state, too.
Training itself is not touched: not its memory, not its random state.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from mcsc_bundle.devices import out_of_memory, with_current_gpu
from mcsc_bundle.plan import Plan, PlanError
from preprocessing.machine import told_bytes

log = logging.getLogger(__name__)

ATTEMPTS = 4
HEADROOM = 0.95  # of the budget that the next plan is made for, as its step may again take more than counted
TOO_MUCH = 0.7  # of the budget, where the step did not fit the device at all
SECONDS = 600
OUT_OF_MEMORY = 3  # exit code


def fit_measured(
    plan: Plan, networks: str, replan: Callable[[float], Plan] | None, amp_dtype: str | None = None
) -> Plan:
    """The plan with its measured memory, or the next smaller one that fits.

    Args:
        plan: as planned.
        networks: ``pair`` for a step of MCSC, ``cnn`` for one of the CNN alone.
        replan: makes a plan for other gigabytes; ``None`` if the plan is not to be changed (given, edited, or of the paper):
            then a step that does not fit is a warning.
        amp_dtype: of the training, see ``mcsc_bundle.precision``.

    Returns:
        The plan with ``measured_memory_gb``, which stays ``None`` where it could not be measured.

    Raises:
        PlanError: nothing fits.
    """
    budget, asked, first = plan.memory_gb, plan.memory_gb, 0.0
    for _ in range(ATTEMPTS):
        taken = measured_gigabytes(plan, networks, amp_dtype)
        if taken is None:
            return plan
        first = first or taken
        if taken <= budget:
            return _noted(plan, budget, asked, taken, first)
        if replan is None:
            log.warning(
                "A training step takes %s of the plan's %.3g GB: expect it to fail. Lower batch_labeled, batch_unlabeled or "
                "patch_size in plan.json.", _gigabytes(taken), budget,
            )  # fmt: skip
            return plan if math.isinf(taken) else plan.replace(measured_memory_gb=round(taken, 2))
        asked *= TOO_MUCH if math.isinf(taken) else HEADROOM * budget / taken
        log.info("A training step takes %s, the budget is %.3g GB: planning again.", _gigabytes(taken), budget)
        plan = _replanned(replan, asked, budget, taken)
    raise PlanError(f"Planning: expected a step that fits {budget:g} GB, received {taken:.3g} GB. Give more memory_gb.")


def measured_gigabytes(plan: Plan, networks: str, amp_dtype: str | None = None) -> float | None:
    """Peak of a training step on the plan's device; infinite if the device has too little, ``None`` if it is not here.

    On a GPU what the allocator reserved; on a CPU the growth of the resident set.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        plan.save(path)
        command = [sys.executable, "-W", "ignore", "-m", "preprocessing.measured", str(path), networks]
        command += [] if amp_dtype is None else [amp_dtype]
        environment = with_current_gpu() | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # torchrun's: this process is none of its ranks
            environment.pop(name, None)
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            log.warning("The memory of a step was not measured: it took more than %d s.", SECONDS)
            return None
    if done.returncode in (OUT_OF_MEMORY, -9):
        return math.inf
    if done.returncode:
        log.warning("The memory of a step was not measured: %s", (done.stderr.strip().splitlines() or ["?"])[-1])
        return None
    return float(done.stdout.split()[-1])


def _noted(plan: Plan, budget: float, asked: float, taken: float, first: float) -> Plan:
    text = f"A step took {taken:.3g} GB when it was tried on this device."
    if asked < budget:
        text += (
            f" The plan counts on {asked:.3g} GB only: the first one, for {budget:.3g} GB, took {_gigabytes(first)}. Batch or "
            f"patch were shrunk by the rules."
        )
    why = {**plan.why, "measured_memory_gb": text}
    return plan.replace(memory_gb=budget, measured_memory_gb=round(taken, 2), why=why)


def _replanned(replan: Callable[[float], Plan], asked: float, budget: float, taken: float) -> Plan:
    try:
        return replan(asked)
    except PlanError as error:
        raise PlanError(
            f"Planning: the smallest plan takes {_gigabytes(taken)} in a step, and memory_gb is {budget:g} ({error})"
        ) from None


def _gigabytes(taken: float) -> str:
    return "more than the device has" if math.isinf(taken) else f"{taken:.3g} GB"


def take_steps(plan: Plan, networks: str, amp_dtype: str | None = None, steps: int = 2) -> float:
    """Peak gigabytes of training steps on noise, in this process, which must not have trained before."""
    from mcsc_bundle.losses.segmentation import nnunet_loss
    from mcsc_bundle.methods import MCSC, Method, MultiScaleContrast, Supervised
    from mcsc_bundle.networks import NetworkPair
    from mcsc_bundle.precision import autocast_dtype

    device = torch.device(plan.device)
    dtype = autocast_dtype(device, amp_dtype)
    pair = NetworkPair.from_plan(plan)
    loss = nnunet_loss(plan.batch_dice, pair.outputs)
    method: Method = Supervised(pair, loss, deep_supervision=True)
    if networks == "pair":
        method = MCSC(
            pair, loss, MultiScaleContrast(plan, pair, balance_anchors=True), confidence=0.0, deep_supervision=True
        )
    method = method.to(device).train()
    optimizer = torch.optim.AdamW(method.parameter_groups(1e-3), fused=True)
    before = _status_gb("VmRSS")
    for _ in range(steps):
        image = torch.randn(
            plan.batch_labeled + plan.batch_unlabeled, plan.network_channels, *plan.patch_size, device=device
        )
        label = torch.randint(plan.num_classes, (plan.batch_labeled, 1, *plan.patch_size), device=device)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            terms = method({"image": image, "label": label}, progress=0.5)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        optimizer.step()
        method.after_step(0.5)
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 1e9
    return _status_gb("VmHWM") - before


def _status_gb(entry: str) -> float:
    """``VmRSS``, the resident set now, or ``VmHWM``, its peak (that of getrusage would include the parent's, before exec)."""
    return told_bytes(Path("/proc/self/status"))[entry] / 1e9


if __name__ == "__main__":
    try:
        path, networks, *precision = sys.argv[1:]
        print(take_steps(Plan.load(path), networks, precision[0] if precision else None))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise SystemExit(OUT_OF_MEMORY) from None
