"""A teacher that follows its student as an exponential moving average (Mean Teacher, Tarvainen and Valpola, 2017)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd


class EMATeacher(nn.Module):
    """Copy of a network whose weights follow it; never trained, never in train mode.

    ``teacher = a * teacher + (1 - a) * student`` with ``a = min(1 - 1 / (t + 1), decay)`` at update ``t``, so that the
    first updates copy the student. Buffers (batch-norm statistics) are copied, not averaged: the teacher then
    normalises with what the student last saw. The reference code of SSL4MIS lets the teacher's own train-mode passes
    make its statistics; ours stays in eval mode.

    Args:
        student: network to follow; it is copied.
        decay: upper bound of ``a``, in [0, 1).
    """

    def __init__(self, student: nn.Module, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), received {decay}.")
        self.network = copy.deepcopy(student).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    def train(self, mode: bool = True) -> EMATeacher:
        """Stays in eval mode whatever the method around it does."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, C, *spatial)`` without a graph."""
        with torch.no_grad():
            return self.network(x)

    def sample(self, x: Tensor) -> Tensor:
        """As ``forward``, with the network's dropout on: one draw of Monte Carlo dropout (Gal and Ghahramani, 2016)."""
        dropouts = [module for module in self.network.modules() if isinstance(module, _DropoutNd)]
        for module in dropouts:
            module.train()
        try:
            return self(x)
        finally:
            for module in dropouts:
                module.eval()

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step of the moving average."""
        decay = min(1 - 1 / (self.updates + 1), self.decay)
        torch._foreach_lerp_(list(self.network.parameters()), list(student.parameters()), 1 - decay)
        if buffers := list(self.network.buffers()):
            torch._foreach_copy_(buffers, list(student.buffers()))
        self.updates += 1

    def get_extra_state(self) -> dict[str, Any]:
        """The number of updates, so that a resumed teacher goes on where it was."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``get_extra_state``."""
        self.updates = int(state["updates"])
