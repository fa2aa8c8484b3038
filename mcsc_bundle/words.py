"""Numbers and errors in sentences, tables as text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

MANY = 5  # names that one reads; of more the first ones are given


def listed(names: Sequence[str]) -> str:
    """``a, b``; of more than ``MANY`` the first ones and how many there are."""
    if len(names) <= MANY:
        return ", ".join(names)
    return f"{', '.join(names[:MANY])}, ... ({len(names)})"


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``, ``no case``.

    Args:
        number: how many.
        noun: the last of its words takes the ``s``.
    """
    return f"{number or 'no'} {noun}{'s' * (number > 1)}"


def in_turn(groups: Sequence[Sequence[str]]) -> str:
    """``a + b, then of c``: groups of classes that keep their largest component."""
    return ", then of ".join(map(" + ".join, groups))


def first_line(error: Exception) -> str:
    """Of its message; the kind of error where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def aligned(lines: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """The lines of a table, each column as wide as its widest cell.

    Args:
        lines: cells, equally many in each line.
        right: cells end at the same place instead of beginning there.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = str.rjust if right else str.ljust
    return ["  ".join(map(pad, line, widths)).rstrip() for line in lines]


def per_axis(values: Sequence[float | None]) -> str:
    """``(1.5, 1.5, None)`` as ``1.5 x 1.5 x own``."""
    return " x ".join("own" if value is None else f"{value:.4g}" for value in values)


@cache
def warn_once(log: logging.Logger, message: str) -> None:
    """A warning that would come again: each fold of a cross-validation reads its data set, and a file is opened several times."""
    log.warning("%s", message)
