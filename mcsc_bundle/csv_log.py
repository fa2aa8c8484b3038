"""Tables as CSV files; of those that a training writes, a row per epoch: ``log.csv`` and ``validation.csv``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mcsc_bundle.files import replacing

WATCHED = "watched_"  # begins the names of what is no loss: shares of pseudo-labels, the norm of the gradients
PLAIN = ("epoch", "iteration", "seconds", "lr", "nonfinite_steps")  # of log.csv; the others are loss terms or watched


def loss_terms(columns: Iterable[str]) -> list[str]:
    """The columns of ``log.csv`` that are loss terms, their sum ``loss`` first."""
    return [name for name in columns if name not in PLAIN and not name.startswith(WATCHED)]


def watched(columns: Iterable[str]) -> list[str]:
    """The columns of ``log.csv`` that are watched, each with its prefix."""
    return [name for name in columns if name.startswith(WATCHED)]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None) -> bytes:
    """The content of a CSV file; ``None`` takes the columns of all rows as they come. What a row lacks is left empty."""
    rows, buffer = list(rows), io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(columns or dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def write_rows(
    path: str | os.PathLike, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None
) -> None:
    """Write a CSV file, whole or not at all; see ``as_csv`` and ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_bytes(as_csv(rows, columns))


class CSVLog:
    """Appends one row per epoch to a CSV file; a resume first drops the rows after the point it goes on from.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def truncate(self, iteration: int) -> None:
        """Forget rows past ``iteration``: they belong to work that was lost."""
        if self.path.exists():
            rows = read_rows(self.path)
            kept = [row for row in rows if row["iteration"].isdigit() and int(row["iteration"]) <= iteration]
            write_rows(self.path, kept)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; new columns widen the file."""
        write_rows(self.path, [*read_rows(self.path), row])
