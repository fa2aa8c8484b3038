"""Numbers and errors in sentences."""

from __future__ import annotations

import re


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``, ``no case``.

    Args:
        number: how many.
        noun: the last of its words takes the ``s``.
    """
    return f"{number or 'no'} {noun}{'s' * (number > 1)}"


def first_line(error: Exception) -> str:
    """Of its message; the kind of error where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def why_no_tensors(error: Exception) -> str:
    """Why ``torch.load(..., weights_only=True)`` refused a file, without its advice to unpickle all the same."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"a pickle that would call {named[1]}" if named else f"damaged or cut off ({type(error).__name__})"
