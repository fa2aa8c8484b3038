"""Misspelt options of command lines that Fire reads: Fire itself complains of them once the work is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any

from mcsc_bundle.option_values import OptionError

Command = Callable[..., Any]


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
    given = [
        word[2:].partition("=")[0] for word in takewhile(lambda word: word != "--", words) if word.startswith("--")
    ]
    for name in given:
        plain = name.replace("-", "_")
        if plain in (*parameters, "help") or (plain.startswith("no") and plain[2:] in parameters):  # Fire's --noswitch
            continue
        close = get_close_matches(plain, parameters, n=1)
        remedy = (
            f"Did you mean --{close[0]}?" if close else f"There are {', '.join(f'--{each}' for each in parameters)}."
        )
        raise OptionError(f"expected options that exist, received --{name}. {remedy}")


def check_flags_or_exit(words: Sequence[str], commands: Command | Mapping[str, Command]) -> None:
    """``check_flags`` for programs: ends with the message."""
    try:
        check_flags(words, commands)
    except OptionError as error:
        raise SystemExit(f"error: {error}") from None
