"""Laws of a training that a device must keep: mixed precision, resume, ``torch.compile``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.random_training import cardiac_plan, make_trainer
from mcsc_bundle.plan import Plan
from mcsc_bundle.trainer import MCSCTrainer


def check_laws(device: torch.device) -> dict[str, bool]:
    """AMP, scaler state and resume on this device; of a CPU, that losses are finite."""
    plan = cardiac_plan(size=64, pixels=256)
    _, exact = trained(plan, device)
    laws = {"finite fp32": exact == exact}
    if device.type == "cuda":
        for dtype in (torch.bfloat16, torch.float16):
            engine, loss = trained(plan, device, amp=True, amp_dtype=dtype)
            name = str(dtype).removeprefix("torch.")
            if engine.nonfinite_steps == 0:  # a step that the scaler skips is no other loss, but one of fewer steps
                laws[f"{name} near fp32"] = abs(loss - exact) < 0.05 * abs(exact)
            laws[f"{name} scaler on only for fp16"] = engine.grad_scaler.is_enabled() == (dtype == torch.float16)
        laws["fp16 scaler state in checkpoint"] = bool(engine.training_state()["scaler"])
        laws["resume repeats the run"] = resumes(plan, device)
    return laws


def compiles(device: torch.device) -> bool:
    """Compiled, a training goes as it goes otherwise."""
    plan = cardiac_plan(size=64, pixels=256)
    exact, compiled = (trained(plan, device, compile=on)[1] for on in (False, True))
    return abs(compiled - exact) < 0.02 * abs(exact)


def trained(plan: Plan, device: torch.device, **kwargs: Any) -> tuple[MCSCTrainer, float]:
    """MCSC after six steps, and its last loss."""
    engine = make_trainer(plan, "mcsc", device, 6, **kwargs)
    engine.run()
    return engine, float(engine.state.output["loss"])


def resumes(plan: Plan, device: torch.device) -> bool:
    """Six fp16 steps in one go against three, a saved state, and three more: equal to float tolerance of CUDA atomics."""
    whole = make_trainer(plan, "mcsc", device, 3, amp=True, amp_dtype=torch.float16)
    whole.state.max_epochs = 2
    whole.run()
    first = make_trainer(plan, "mcsc", device, 3, amp=True, amp_dtype=torch.float16)
    first.state.max_epochs = 2  # the schedule hangs on the planned length
    from ignite.engine import Events

    first.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda engine: engine.terminate())
    first.run()
    second = make_trainer(plan, "mcsc", device, 3, amp=True, amp_dtype=torch.float16)
    second.state.max_epochs = 2
    state = first.training_state()
    second.add_event_handler(Events.STARTED, lambda engine: engine.load_training_state(state))
    second.run()
    one, two = (nn.utils.parameters_to_vector(engine.method.parameters()) for engine in (whole, second))
    return (
        bool((one - two).norm() / one.norm() < 1e-3) and whole.grad_scaler.get_scale() == second.grad_scaler.get_scale()
    )
