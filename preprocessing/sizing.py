"""Patch, batch and width of the networks for a memory budget and, on a CPU, a time budget.

With one network and a GPU this is nnU-Net's procedure (``default_experiment_planner.py``:
``get_plans_for_configuration``). The second network adds its own count to the same loop. On a CPU the networks are
narrowed first, then the batch halved, and the patch shrinks only when that does not suffice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mcsc_bundle.plan import CNNPlan, PlanError, TransformerPlan
from preprocessing.compute import cnn_flops, cpu_step_seconds, transformer_flops
from preprocessing.families import PLAIN, Family
from preprocessing.memory import (
    BYTES_PER_COUNT,
    REFERENCE_BATCH,
    cnn_count,
    cnn_parameters,
    stage_features,
    step_gigabytes,
    transformer_count,
    transformer_parameters,
)
from preprocessing.topology import Topology, fit_patch
from preprocessing.transformer import plan_transformer

FULL_WIDTH = 32
"""Channels of the CNN's first stage where compute allows (nnU-Net)."""

TRANSFORMER_WIDTH = 3
"""Channels of the Transformer's first stage per channel of the CNN's: 96 beside 32 (Swin-T)."""

MIN_BATCH = 2

LABELED_PATCHES, LABELED_SHARE = 12, 0.2
"""Most labelled patches of a step where others are unlabelled: so many (published trainings on ACDC), or this share of the
labelled voxels if that is more. Beyond, a step shows the same few scans again."""

CPU_WIDTHS = (16, 8)
CPU_BATCH = {2: 8, 3: 4}
"""Patches of a CPU step where time allows: the paper's 2 + 2 in 3-D, twice as many where a patch is a slice."""

CPU_MEMORY_CAP_GB = 8.0
"""Most memory that a CPU plan takes by default."""

CPU_STEP_SECONDS = 2.0
"""Time budget of one step on two cores, by default."""

LOWRES_BELOW, LOWRES_GROWTH, LOWRES_GAIN = 0.25, 1.03, 2.0
"""Low-resolution stage (nnU-Net): planned below this share of the image, spacing growth, least gain."""


@dataclass(frozen=True)
class Task:
    """What is to be fitted. All per-axis values in nnU-Net's axis order, without the slice axis.

    Args:
        spacing_mm, median_shape: of the network's axes.
        dataset_voxels: voxels of all cases on the target grid, slice axis included.
        in_channels, num_classes: of the networks.
        memory_gb: budget.
        device: ``cpu`` or ``cuda``.
        pair: count the Transformer too.
        step_seconds: time budget of one step on two cores, on a CPU.
        family: of the CNN.
        labeled_share: share of the cases that are labelled; 1 for nnU-Net's own plan, which knows no others.
    """

    spacing_mm: tuple[float, ...]
    median_shape: tuple[float, ...]
    dataset_voxels: float
    in_channels: int
    num_classes: int
    memory_gb: float
    device: str
    pair: bool
    step_seconds: float = CPU_STEP_SECONDS
    family: Family = PLAIN
    labeled_share: float = 1.0

    @property
    def dims(self) -> int:
        """Network dimensions."""
        return len(self.spacing_mm)

    @property
    def reference_count(self) -> float:
        """Feature-map voxels of one patch that fill the budget at the reference batch."""
        on_device = BYTES_PER_COUNT["cuda"] / BYTES_PER_COUNT[self.device]
        return self.family.reference_count[self.dims] * (self.memory_gb / self.family.memory_gb) * on_device


@dataclass(frozen=True)
class Networks:
    """The two networks at one patch and width, with what they cost.

    Args:
        topology: patch, strides and kernels.
        cnn, transformer: their shapes.
        cnn_count, transformer_count: feature-map voxels of one patch.
        cnn_flops, transformer_flops: operations of one forward pass of one patch.
        parameters: weights of the counted networks.
    """

    topology: Topology
    cnn: CNNPlan
    transformer: TransformerPlan
    cnn_count: int
    transformer_count: int
    cnn_flops: float
    transformer_flops: float
    parameters: int

    @property
    def count(self) -> int:
        """Feature-map voxels of one patch, all counted networks."""
        return self.cnn_count + self.transformer_count

    def step_seconds(self, batch: int) -> float:
        """Seconds of a step on two CPU cores."""
        dims, width = len(self.topology.patch), self.cnn.features[0]
        return cpu_step_seconds(dims, width, self.cnn_flops, self.transformer_flops, batch)


@dataclass(frozen=True)
class Sizing:
    """What fits.

    Args:
        networks: the networks at the chosen patch and width.
        batch: patches in a step.
        first_patch: the patch first tried.
        memory_batch: the batch that memory alone would allow.
        dataset_batch: the batch at which a step covers the family's share of the data set.
        memory_patch: the patch that memory alone would allow (larger than the chosen one only on a CPU).
        labeled_batch: the batch whose labelled half is as large as the labelled cases bear; ``None`` where all are labelled.
    """

    networks: Networks
    batch: int
    first_patch: tuple[int, ...]
    memory_batch: int
    dataset_batch: int
    memory_patch: tuple[int, ...]
    labeled_batch: int | None


def build_networks(task: Task, topology: Topology, width: int) -> Networks:
    """Both networks for a patch, and their costs; the Transformer's are 0 if it is not counted."""
    cnn = CNNPlan(
        preset=task.family.preset,
        features=stage_features(width, len(topology.strides), task.dims),
        kernel_sizes=topology.kernels,
        strides=topology.strides,
        convs_per_stage=task.family.convs_per_stage,
        blocks_per_stage=task.family.blocks(len(topology.strides)),
    )
    swin = plan_transformer(
        topology.patch, task.spacing_mm, width * TRANSFORMER_WIDTH, fine_tokens=task.device == "cuda"
    )
    ends, patch = (task.in_channels, task.num_classes), topology.patch
    return Networks(
        topology,
        cnn,
        swin,
        cnn_count(topology, cnn.features, task.num_classes, cnn.convs_per_stage, cnn.blocks_per_stage),
        transformer_count(patch, swin, task.num_classes) if task.pair else 0,
        cnn_flops(patch, cnn, *ends),
        transformer_flops(patch, swin, *ends) if task.pair else 0.0,
        cnn_parameters(cnn, *ends) + (transformer_parameters(swin, *ends) if task.pair else 0),
    )


def fit_networks(task: Task) -> Sizing:
    """Choose patch, batch and width.

    Raises:
        PlanError: no patch fits the memory budget.
    """
    if task.device == "cuda":
        return _fit_memory(task, FULL_WIDTH)
    for width in CPU_WIDTHS:
        sizing = _fit_memory(task, width)
        for batch in _halvings(min(sizing.batch, CPU_BATCH[task.dims]), at_most=2 if width > CPU_WIDTHS[-1] else None):
            if sizing.networks.step_seconds(batch) <= task.step_seconds:
                return replace(sizing, batch=batch)
    return _fit_time(task, sizing)


@dataclass(frozen=True)
class LowRes:
    """A 3-D plan at a coarser spacing.

    Args:
        task: with that spacing and the shapes on its grid.
        sizing: what fits there.
    """

    task: Task
    sizing: Sizing


def plan_lowres(task: Task, patch: Sequence[int]) -> LowRes | None:
    """nnU-Net's 3d_lowres: coarsened until a patch covers a quarter of the image; ``None`` if ``patch`` does already.

    Its existence also decides ``batch_dice`` at full resolution: small patches of large images often hold no foreground, so
    Dice is summed over the batch.
    """
    spacing, median = np.array(task.spacing_mm), np.array(task.median_shape)
    coarse, voxels, covered = spacing.copy(), float(np.prod(median)), float(math.prod(patch))
    found: LowRes | None = None
    while covered / voxels < LOWRES_BELOW:
        finer = coarse.max() / coarse > 2
        coarse[finer if finer.any() else slice(None)] *= LOWRES_GROWTH
        shape = spacing / coarse * median
        voxels = float(np.prod(shape))
        lowered = replace(
            task,
            spacing_mm=tuple(coarse.tolist()),
            median_shape=tuple(round(length) for length in shape.tolist()),
            dataset_voxels=task.dataset_voxels * voxels / float(np.prod(median)),
        )
        found = LowRes(lowered, fit_networks(lowered))
        covered = float(math.prod(found.sizing.networks.topology.patch))
    return found if np.prod(median) / voxels >= LOWRES_GAIN else None


def _fits_memory(task: Task, topology: Topology, width: int) -> bool:
    patches = REFERENCE_BATCH[task.dims] if task.family.fills_with_reference_batch else MIN_BATCH
    count = build_networks(task, topology, width).count
    return count / REFERENCE_BATCH[task.dims] * patches <= task.reference_count


def _fit_memory(task: Task, width: int) -> Sizing:
    """nnU-Net's loop: shrink the patch until two of them fit, then fill the memory with more."""
    try:
        topology, first = fit_patch(task.spacing_mm, task.median_shape, lambda t: _fits_memory(task, t, width))
    except PlanError as error:
        raise PlanError(
            f"Planning: expected a memory budget that holds {MIN_BATCH} patches, received "
            f"memory_gb={task.memory_gb:g} ({error}). Give more memory_gb."
        ) from None
    networks = build_networks(task, topology, width)
    by_memory = round(task.reference_count / networks.count * REFERENCE_BATCH[task.dims])
    by_dataset, by_labels = _dataset_batch(task, topology), _labeled_batch(task, topology)
    batch = max(min(by_memory, by_dataset, by_labels or by_dataset), MIN_BATCH)
    return Sizing(networks, batch, first.patch, by_memory, by_dataset, topology.patch, by_labels)


def _dataset_batch(task: Task, topology: Topology) -> int:
    return round(task.dataset_voxels * task.family.dataset_share / math.prod(topology.patch))


def _labeled_batch(task: Task, topology: Topology) -> int | None:
    if task.labeled_share == 1:
        return None
    patches = round(LABELED_SHARE * task.labeled_share * task.dataset_voxels / math.prod(topology.patch))
    return 2 * max(patches, LABELED_PATCHES)


def _fit_time(task: Task, widest: Sizing) -> Sizing:
    """The narrowest networks and the smallest batch are still too slow: shrink the patch by the same loop."""
    width, limit = CPU_WIDTHS[-1], task.step_seconds

    def fits(topology: Topology) -> bool:
        quick = build_networks(task, topology, width).step_seconds(MIN_BATCH) <= limit
        return quick and _fits_memory(task, topology, width)

    try:
        topology, _ = fit_patch(task.spacing_mm, task.median_shape, fits)
    except PlanError:
        raise PlanError(
            f"Planning: expected a time that a step of the smallest networks can be done in, received step_seconds={limit:g}. "
            f"Give more; the usual is {CPU_STEP_SECONDS:g}."
        ) from None
    return replace(
        widest,
        networks=build_networks(task, topology, width),
        batch=MIN_BATCH,
        dataset_batch=_dataset_batch(task, topology),
        labeled_batch=_labeled_batch(task, topology),
    )


def _halvings(batch: int, at_most: int | None) -> list[int]:
    """The batch and its halves down to ``MIN_BATCH``, or the first ``at_most`` of them."""
    sizes = [batch]
    while sizes[-1] // 2 >= MIN_BATCH:
        sizes.append(sizes[-1] // 2)
    return sizes[:at_most]


def memory_of_step(networks: Networks, batch: int, device: str) -> float:
    """Gigabytes a training step is expected to take."""
    return step_gigabytes(networks.count, batch, networks.parameters, device)
