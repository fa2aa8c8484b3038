"""Files of weights: read as tensors and plain containers alone, so that a file from somebody else cannot run code."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from mcsc_bundle.words import first_line

CALLED = re.compile(r"GLOBAL ([\w.]+)")  # what torch found in a pickle and did not call


class TensorFileError(ValueError):
    """A file that holds other things than tensors, or that cannot be read; the message says which and what to do."""


def load_tensors(path: str | Path, mmap: bool = False) -> Any:
    """What a file of weights holds, on the CPU.

    Args:
        path: of the file.
        mmap: leave the tensors on the disk until they are used, where little else is wanted of a large file.

    Raises:
        TensorFileError: it would have to be unpickled as code, or is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch.load raises many kinds on a damaged file
        if isinstance(error, UnpicklingError):  # its words advise to unpickle it all the same
            called = CALLED.search(str(error))
            pickled = (
                f"a pickle that would call {called[1]}" if called else "a pickle of other things, or a damaged file"
            )
            remedy = "" if called else f" {_remedy(Path(path))}"
            raise TensorFileError(
                f"{path}: expected a file of tensors, received {pickled}. Do not load it in another way; get the weights "
                f"from where you trust them.{remedy}"
            ) from None
        raise TensorFileError(
            f"{path}: expected a file of tensors, received one that cannot be read, damaged or cut off "
            f"({first_line(error)}). {_remedy(Path(path))}"
        ) from None


def load_tensors_or_exit(path: str | Path) -> Any:
    """``load_tensors`` for configs: a wrong file ends the program with its message instead of a traceback."""
    try:
        return load_tensors(path)
    except TensorFileError as error:
        raise SystemExit(f"error: {error}") from None


def misfit(error: RuntimeError, path: str | Path | None = None) -> str:
    """What it means to a user that ``load_state_dict`` raised ``error``.

    Args:
        error: from a network that was made by a plan.
        path: of the weights, if it is known.
    """
    where = "" if path is None else f" in {path}"
    reason = str(error).splitlines()[-1].strip(" .")
    return (
        f"expected weights that fit plan.json, received others{where} ({reason}). One of the two was edited or exchanged since "
        "the training: put it back, or train anew in another output_dir."
    )


def _remedy(path: Path) -> str:
    if path.name == "checkpoint.pt":
        return "Delete it to train anew; model.pt beside it holds the network of the epoch that was saved last."
    return "Copy it again; of a training, an epoch more writes it anew."
