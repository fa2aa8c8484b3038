"""Start from a trained run or a packed bundle: layers that fit are taken over, the others are named."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mcsc_bundle.plain import PlanError
from mcsc_bundle.shipped import BundleError, check_weights
from mcsc_bundle.tensors import TensorFileError, load_tensors

log = logging.getLogger(__name__)


class TransferError(ValueError):
    """A folder that nothing can be taken over from; the message says why and what to do."""


@dataclass(frozen=True)
class Transfer:
    """What ``take_over`` did, names of parameters and buffers.

    Args:
        loaded: set from the other network.
        kept: as they were before: not in the other network, or of another shape there.
    """

    loaded: tuple[str, ...]
    kept: tuple[str, ...]


def take_over(network: nn.Module, state: Mapping[str, Tensor]) -> Transfer:
    """Set every parameter and buffer of ``network`` that ``state`` holds under the same name in the same shape."""
    own = network.state_dict()
    loaded = tuple(name for name in own if name in state and state[name].shape == own[name].shape)
    network.load_state_dict({name: state[name] for name in loaded}, strict=False)
    return Transfer(loaded, tuple(name for name in own if name not in loaded))


def init_from(networks: Mapping[str, nn.Module], run_dir: str | os.PathLike) -> dict[str, Transfer]:
    """Start networks from those of a run folder or a packed bundle.

    Args:
        networks: by branch name (``cnn``, ``transformer``); changed in place.
        run_dir: holds ``models/pair.pt`` (both branches) or ``models/model.pt`` (the CNN alone).

    Returns:
        What was taken over for each branch that the folder holds.

    Raises:
        TransferError: no weights there, a file that cannot be read, weights that are not those of a packed
            bundle's metadata, or weights of which no kernel fits the CNN.
    """
    transfers = {}
    for branch, state in _weights(Path(run_dir)).items():
        transfers[branch] = transfer = take_over(networks[branch], state)
        total = len(transfer.loaded) + len(transfer.kept)
        log.info("%s: %d of %d tensors of the %s taken over.", run_dir, len(transfer.loaded), total, branch)
        if transfer.kept:
            log.info("The %s starts anew in: %s", branch, ", ".join(transfer.kept))
    for branch in set(networks) - set(transfers):
        log.info("%s holds no %s; it starts anew.", run_dir, branch)
    own = networks["cnn"].state_dict()
    if not any(own[name].ndim > 1 for name in transfers["cnn"].loaded):  # norms and biases fit anything of their width
        raise TransferError(
            f"init_from: expected a CNN of a similar plan in {run_dir}, no kernel of it fits this plan. "
            "Take that run's plan too (--plan_from), or train without --init_from."
        )
    return transfers


def _weights(folder: Path) -> dict[str, dict[str, Tensor]]:
    models = folder / "models"
    for name in ("pair.pt", "model.pt"):
        path = models / name
        if path.exists():
            try:
                check_weights(folder, path)
                content = load_tensors(path)
            except (BundleError, PlanError, TensorFileError) as error:
                raise TransferError(f"init_from: {error}") from None
            return content if name == "pair.pt" else {"cnn": _first_member(content)}
    raise TransferError(
        f"init_from: expected pair.pt or model.pt in {models}, found neither. Give a run folder or a packed bundle."
    )


def _first_member(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first network of a packed ensemble; of a single network, itself."""
    prefix = "members.0."
    member = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return member or state
