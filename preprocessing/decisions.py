"""What the planner decided on its way to a plan, for those who explain it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preprocessing.coarser import Coarser
from preprocessing.configuration import in_image_order
from preprocessing.geometry import Geometry
from preprocessing.sizing import Sizing, Task


@dataclass(frozen=True)
class Decisions:
    """Results of the planner's steps.

    Args:
        geometry, task, sizing: results of the steps.
        axes: image axes of the network in the order of ``task``.
        slice_axis: image axis sliced along, if any.
        configuration, why_configuration: nnU-Net's name of what is planned, and its reason.
        why_dims: reason for 2-D or 3-D.
        lowres_mm: spacing of 3d_lowres in the order of ``task``; ``None`` if the data do not call for it.
        default_memory: the budget was not given.
        coarser: what was decided for slices at a coarser resolution; ``None`` at full resolution.
    """

    geometry: Geometry
    task: Task
    sizing: Sizing
    axes: tuple[int, ...]
    slice_axis: int | None
    configuration: str
    why_configuration: str
    why_dims: str
    lowres_mm: tuple[float, ...] | None
    default_memory: bool
    coarser: Coarser | None = None

    def in_image_order(self, values: Sequence[float]) -> tuple[float, ...]:
        """Values in the order of ``task`` brought to that of the image's axes."""
        return in_image_order(self.axes, values)
