"""Whose data a network was trained on, what its licence leaves free, and who publishes the network."""

from __future__ import annotations

import re
from dataclasses import dataclass

NONCOMMERCIAL = re.compile(r"\bNC\b|non-?commercial", re.IGNORECASE)


@dataclass(frozen=True)
class DataTerms:
    """Where the data comes from and what its licence is, in the words of who packs.

    Args:
        source: name, place or reference of the data set.
        license_text: the licence's name, or its whole text.
    """

    source: str
    license_text: str


@dataclass(frozen=True)
class Credits:
    """Who answers for a bundle, in metadata and card.

    Args:
        authors: names of people or of a group.
        copyright: the line; made of the authors if empty.
        description: one sentence; made of run and plan if empty.
    """

    authors: str = "The MCSC bundle authors"
    copyright: str = ""
    description: str = ""


PROJECT = Credits()


def noncommercial(terms: DataTerms) -> str:
    """A sentence for the intended use, where the licence excludes commerce; else nothing."""
    if not NONCOMMERCIAL.search(terms.license_text):
        return ""
    return " Not for commercial use either: the licence of the data excludes it."


def licence(terms: DataTerms) -> str:
    """The card's section on licences."""
    return (
        "## Licence\n\nCode: Apache-2.0, see `LICENSE`. Weights: Apache-2.0 as far as the licence of the data they were "
        f"trained on leaves that free. That licence is: {terms.license_text.splitlines()[0]}; see `docs/data_license.txt`."
        f"{noncommercial(terms)}"
    )
