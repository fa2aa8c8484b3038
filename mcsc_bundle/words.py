"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``, ``no case``.

    Args:
        number: how many.
        noun: the last of its words takes the ``s``.
    """
    return f"{number or 'no'} {noun}{'s' * (number > 1)}"
