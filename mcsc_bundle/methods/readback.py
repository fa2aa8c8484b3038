"""Values that travel from the device to the host while the step goes on."""

from __future__ import annotations

import torch
from torch import Tensor


class ReadBack:
    """A copy under way: who reads it later waits for these values alone, not for all that was queued since.

    Args:
        values: any tensor; of a GPU's the copy goes to pinned memory.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.detach().to("cpu", non_blocking=values.is_cuda)
        self.arrived = torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None

    def wait(self) -> Tensor:
        """The values, on the CPU."""
        if self.arrived is not None:
            self.arrived.synchronize()
            self.arrived = None  # an event can be neither copied nor pickled
        return self.values

    def tolist(self) -> list[float]:
        """The values as numbers."""
        return self.wait().tolist()
