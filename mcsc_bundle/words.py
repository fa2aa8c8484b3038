"""Numbers and errors in sentences."""

from __future__ import annotations


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
