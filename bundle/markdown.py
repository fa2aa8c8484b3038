"""Numbers and tables in the words of a model card."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def per_axis(values: Sequence[Sequence[float]]) -> str:
    """Median and range of each axis."""
    if not values:
        return "-"
    array = np.array([value for value in values if len(value) == len(values[0])], dtype=float)
    cells = [
        f"{np.median(column):.3g}" + (f" ({column.min():.3g} to {column.max():.3g})" if np.ptp(column) else "")
        for column in array.T
    ]
    return " x ".join(cells)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
