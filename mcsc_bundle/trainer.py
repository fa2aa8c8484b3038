"""The one trainer: MONAI's ``SupervisedTrainer`` made to run a ``Method`` on two-stream batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mcsc_bundle.data import TwoStreamLoader
from mcsc_bundle.devices import out_of_memory
from mcsc_bundle.files import DiskError
from mcsc_bundle.interrupt import stops_with
from mcsc_bundle.methods.base import Method
from mcsc_bundle.methods.supervision import has_heads
from mcsc_bundle.optimizers import computed_as, settings_of, use_fused_kernels
from mcsc_bundle.plain import PlanError
from mcsc_bundle.precision import autocast_dtype, forget_overflow
from mcsc_bundle.words import first_line

log = logging.getLogger(__name__)

LESS = "Close what else runs on it, or plan for less in a new --output_dir (--memory_gb). What was saved is kept."
GOING_ON = "%s: going on with %s; the epochs before ran with %s."


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class NonFiniteLossError(TrainingError):
    """Training met too many losses or gradients in a row that are not finite."""


class CheckpointError(TrainingError):
    """A checkpoint that does not belong to this training."""


def sum_of_terms(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss of a method: the sum of its weighted terms."""
    return torch.stack([term.float() for term in terms.values()]).sum()


def polynomial(progress: float, warmup: float = 0.0, power: float = 0.9) -> float:
    """Learning-rate factor: over the ``warmup`` share of the training linear from 0.001 to 1, then ``^power`` of what is left."""
    if progress < warmup:
        return 1e-3 + (1 - 1e-3) * progress / warmup
    return ((1 - progress) / (1 - warmup)) ** power


class MCSCTrainer(SupervisedTrainer):
    """Trains any ``Method``: two-stream batches, AMP with its own scaler, clipping, schedules, non-finite steps.

    What differs from ``SupervisedTrainer``: the network is a method that returns named loss terms; the gradient scaler
    lives as long as the trainer and its state is in the checkpoint; gradients are unscaled and clipped before the step;
    the learning rate is a function of ``progress``; and the random state of each iteration is set from (seed, iteration,
    rank), so that a resumed run repeats an uninterrupted one bit by bit on a CPU.

    Args:
        device: where to train. On a GPU cuDNN is told to search for its fastest convolutions (for the whole process).
        max_epochs, epoch_length: an epoch is ``epoch_length`` iterations (unlabelled pools have no natural epoch).
        train_data_loader: gives ``image`` and ``label``, see ``TwoStreamLoader``.
        network: the method. Under ``torch.distributed`` the trainer wraps it in DDP.
        optimizer: its groups may carry ``warmup`` (share of the training), see ``Method.parameter_groups``. Adam and AdamW get
            their fused kernels, one call for all weights, unless they were made with others.
        loss_function: makes the loss from the terms; the sum by default.
        schedule: ``schedule(progress, warmup) -> factor`` of each group's initial learning rate.
        grad_clip: largest gradient norm (nnU-Net: 12), ``None`` for no clipping.
        amp: mixed precision on CUDA, bf16 where the GPU has it, else fp16. On a CPU it is off, and that is said once,
            unless ``amp_dtype`` asks for bf16: worth it only where the CPU has bf16 instructions (AVX512-BF16, AMX).
        amp_dtype: of mixed precision, also by name (``bfloat16``, ``float16``; ``float32`` is none); ``None`` for the above.
        max_nonfinite: this many non-finite steps in a row stop the training; single ones are skipped and counted.
        compile: ``torch.compile`` the networks' feature extractors and the contrast.
        seed: of every iteration's random state.
        **kwargs: passed to ``SupervisedTrainer`` (handlers, metrics, accumulation_steps, ...).
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        network: Method,
        optimizer: Optimizer,
        epoch_length: int,
        loss_function: Callable[[Mapping[str, Tensor]], Tensor] = sum_of_terms,
        schedule: Callable[..., float] = polynomial,
        grad_clip: float | None = 12.0,
        amp: bool = False,
        amp_dtype: torch.dtype | str | None = None,
        max_nonfinite: int = 20,
        compile: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        device = torch.device(device)
        if device.type == "cuda":  # patch and batch stay the same, so cuDNN's search pays, as in nnU-Net
            torch.backends.cudnn.benchmark = True
        self.method = network.to(device)
        if compile:
            self.method.compile_networks()
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=_distributed(self.method, device),
            optimizer=optimizer,
            loss_function=loss_function,
            epoch_length=epoch_length,
            decollate=False,
            **kwargs,
        )
        self.schedule, self.grad_clip, self.seed = schedule, grad_clip, seed
        self.autocast_dtype = autocast_dtype(device, amp_dtype) if amp else None
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_dtype == torch.float16)
        self.max_nonfinite, self.nonfinite_in_a_row, self.nonfinite_steps = max_nonfinite, 0, 0
        self.checkpoint: tuple[str, int] | None = None  # where the training could go on, and after which epoch
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        use_fused_kernels(optimizer, device)

    @property
    def progress(self) -> float:
        """Share of the training done before the current iteration, in [0, 1)."""
        total = self.state.max_epochs * self.state.epoch_length
        return max(0, self.state.iteration - 1) / total

    def run(self) -> None:
        """Train to ``max_epochs``. Unlike MONAI's trainer, keeps the scaler between calls."""
        Workflow.run(self)

    def run_or_exit(self) -> None:
        """``run`` for configs: training that cannot go on, or is stopped, ends the program with one sentence."""
        try:
            with stops_with(self._stopped):
                self.run()
        except (TrainingError, DiskError, PlanError) as error:
            raise SystemExit(f"error: {error}") from None
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise SystemExit(f"error: the GPU has no room for this ({first_line(error)}). {LESS}") from None

    def _stopped(self) -> str:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            return ""
        if self.checkpoint is None:
            return (
                f"Stopped in epoch {max(1, self.state.epoch)}; the same command starts anew, as no epoch was saved yet."
            )
        path, epoch = self.checkpoint
        return f"Stopped in epoch {self.state.epoch}; the same command goes on after epoch {epoch}, from {path}."

    def _iteration(self, engine: MCSCTrainer, batchdata: dict[str, Tensor]) -> dict[str, Any]:
        """One optimiser step (or one part of it, with ``accumulation_steps``). Fires MONAI's iteration events."""
        self._begin(engine.state.iteration)
        batch = {key: value.to(self.state.device, non_blocking=self.non_blocking) for key, value in batchdata.items()}
        first, last, steps = self._accumulation_window()
        engine.network.train()
        if first:
            engine.optimizer.zero_grad(set_to_none=True)
        engine.state.output = {}
        with self._autocast():
            terms = engine.network(batch, self.progress)
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            loss = engine.loss_function(terms)
        engine.state.output.update(loss=loss.detach(), terms={name: term.detach() for name, term in terms.items()})
        engine.state.output["watched"] = dict(self.method.watched)
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        self.grad_scaler.scale(loss / steps).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if last:
            self._step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _begin(self, iteration: int) -> None:
        """Random state and learning rates of this iteration, from nothing but its number."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        torch.manual_seed((self.seed * 1_000_003 + iteration) * 1_009 + rank)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(self.progress, group.get("warmup", 0.0))

    def _autocast(self) -> AbstractContextManager:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.state.device.type, dtype=self.autocast_dtype)

    def _accumulation_window(self) -> tuple[bool, bool, int]:
        """Whether this iteration begins and ends an accumulated step, and of how many; an epoch's end always ends one."""
        position = (self.state.iteration - 1) % self.state.epoch_length
        begin = position - position % self.accumulation_steps
        end = min(begin + self.accumulation_steps, self.state.epoch_length)
        return position == begin, position + 1 == end, end - begin

    def _step(self) -> None:
        """Unscale, clip, step; skip and count a step whose gradients are not finite.

        Raises:
            NonFiniteLossError: ``max_nonfinite`` such steps in a row.
        """
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = float("inf") if self.grad_clip is None else self.grad_clip
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.grad_scaler.step(self.optimizer)
            self.method.after_step(self.progress)
        self.grad_scaler.update()
        self.state.output["grad_norm"] = norm.detach()
        self._count_nonfinite(finite)

    def _count_nonfinite(self, finite: bool) -> None:
        if finite:
            self.nonfinite_in_a_row = 0
            return
        forget_overflow(self.method)
        self.nonfinite_in_a_row += 1
        self.nonfinite_steps += 1
        terms = {name: float(value) for name, value in self.state.output["terms"].items()}
        log.warning("iteration %d: gradients are not finite, step skipped; terms %s", self.state.iteration, terms)
        if self.nonfinite_in_a_row >= self.max_nonfinite:
            raise NonFiniteLossError(
                f"expected finite gradients, received {self.nonfinite_in_a_row} non-finite steps in a row up to "
                f"iteration {self.state.iteration}; last terms {terms}. "
                "Lower the learning rate, or train without mixed precision (--amp_dtype float32)."
            )

    def training_state(self) -> dict[str, Any]:
        """Everything needed to go on, tensors and plain containers only."""
        return {
            "iteration": self.state.iteration,
            "epoch_length": self.state.epoch_length,
            "max_epochs": self.state.max_epochs,
            "method_name": type(self.method).__name__,  # for the model card
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.grad_scaler.state_dict(),
            "nonfinite_steps": self.nonfinite_steps,
            "seed": self.seed,
            "leeway": self._leeway,
        }

    @property
    def _leeway(self) -> float:
        return getattr(getattr(self.data_loader, "dataset", None), "leeway", 0.0)

    @staticmethod
    def _tell_changes(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
        """Name the optimizer's settings that differ from those of the epochs before: they are followed from here on."""
        for name in dict.fromkeys(name for group in now for name in group):
            changes = [(old.get(name), new[name]) for old, new in zip(before, now, strict=True)]
            if any(old != new for old, new in changes):
                (old, new) = next((old, new) for old, new in changes if old != new)
                log.warning(GOING_ON, name.removeprefix("initial_"), new, old)

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``training_state``; the next iteration reads the batch it would have read without the interruption.

        Settings of the optimizer (learning rate, weight decay, ...) and the seed stay as they are asked for now; the log names
        changes.

        Raises:
            CheckpointError: the state is of a training with another epoch length, method or plan.
        """
        name = type(self.method).__name__
        if state["method_name"] != name:
            raise CheckpointError(
                f"method: expected {state['method_name']} as in the checkpoint, received {name}. Keep it, or start in "
                "another output_dir."
            )
        if state["epoch_length"] != self.state.epoch_length:
            raise CheckpointError(
                f"epoch_length: expected {state['epoch_length']} as in the checkpoint, received {self.state.epoch_length}. "
                "Keep it, or start in another output_dir."
            )
        deep = [has_heads(weights) for weights in (state["method"], self.method.state_dict())]
        if deep[0] != deep[1]:
            raise CheckpointError(
                f"deep supervision: expected {deep[0]} as in the checkpoint, received {deep[1]}. Give --deep_supervision "
                f"{deep[0]}, or start in another output_dir."
            )
        asked = [settings_of(group) for group in self.optimizer.param_groups]
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(computed_as(self.optimizer.param_groups, state["optimizer"]))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"expected the method and plan of the checkpoint, received others: {str(error).splitlines()[0]} "
                "Keep both, or start in another output_dir."
            ) from None
        if state.get("seed", self.seed) != self.seed:
            log.warning(GOING_ON, "seed", self.seed, state["seed"])
        if (before := state.get("leeway", 0.0)) != self._leeway:
            log.warning(GOING_ON, "leeway", self._leeway, before)
        self._tell_changes([settings_of(group) for group in self.optimizer.param_groups], asked)
        for group, settings in zip(self.optimizer.param_groups, asked, strict=True):
            group.update(settings)
        if state["scaler"]:  # empty where the epochs before had no need of one
            self.grad_scaler.load_state_dict(state["scaler"])
        self.nonfinite_steps = int(state["nonfinite_steps"])
        self.state.iteration = int(state["iteration"])
        self.state.epoch = self.state.iteration // self.state.epoch_length
        if isinstance(self.data_loader, TwoStreamLoader):
            self.data_loader.start_at(self.state.iteration)


def _distributed(method: Method, device: torch.device) -> nn.Module:
    """The method, wrapped once for ``torch.distributed`` where that is running."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return method
    return DistributedDataParallel(
        method, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )
