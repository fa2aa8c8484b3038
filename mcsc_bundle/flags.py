"""Misspelt options of command lines that Fire reads: Fire itself complains of them once the work is done."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any

from mcsc_bundle.option_values import OptionError

Command = Callable[..., Any]

FLAG = re.compile(r"--?([A-Za-z][^=]*)(=.*)?", re.DOTALL)
"""What Fire takes for an option; ``-1`` is a number."""


def check_flags(words: Sequence[str], commands: Command | Mapping[str, Command]) -> None:
    """Refuse options that a command does not take, before it does anything.

    Args:
        words: of the command line, behind the program's name; with several commands the first is one's name.
        commands: the function, or functions by name. What takes any option (``**options``) is left to look itself.

    Raises:
        OptionError: the first that is unknown, and what was likely meant.
    """
    command = commands.get(words[0]) if isinstance(commands, Mapping) and words else commands
    if not callable(command):
        return
    parameters = inspect.signature(command).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for word in takewhile(lambda word: word != "--", words):
        if (flag := FLAG.fullmatch(word)) is None or _is_taken(flag[1].replace("-", "_"), parameters):
            continue
        close = get_close_matches(flag[1].replace("-", "_"), parameters, n=1)
        remedy = (
            f"Did you mean --{close[0]}?" if close else f"There are {', '.join(f'--{each}' for each in parameters)}."
        )
        raise OptionError(f"expected options that exist, received {word.partition('=')[0]}. {remedy}")


def _is_taken(name: str, parameters: Iterable[str]) -> bool:
    """Whether Fire finds a parameter: by its name, ``no`` before that of a switch, or the first letter of one alone."""
    if len(name) == 1:
        return name == "h" or sum(each.startswith(name) for each in parameters) == 1
    return name in (*parameters, "help") or (name.startswith("no") and name[2:] in parameters)


def check_flags_or_exit(words: Sequence[str], commands: Command | Mapping[str, Command]) -> None:
    """``check_flags`` for programs: ends with the message."""
    try:
        check_flags(words, commands)
    except OptionError as error:
        raise SystemExit(f"error: {error}") from None
