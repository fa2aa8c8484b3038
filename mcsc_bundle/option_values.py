"""What the value of each option may be, said in one line before any work begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from mcsc_bundle.plan_parts import CASCADE, CONFIGURATIONS
from mcsc_bundle.precision import AMP_DTYPES

EXPRESSIONS = ("$", "@", "%")  # a text that MONAI evaluates: its value is not known yet
YAML_FLOAT = "In YAML write 1.0e-4: 1e-4 is a text there."


class OptionError(ValueError):
    """An option that does not exist, or a value that it cannot have; the message says what would be possible."""


@dataclass(frozen=True)
class Rule:
    """What an option may be: in words, and whether a value is so."""

    expected: str
    holds: Callable[[Any], bool]
    remedy: str = ""
    choices: tuple[str, ...] = ()


def check_values(options: Mapping[str, Any]) -> None:
    """Refuse values that cannot be; options without a rule, and expressions of MONAI's config language, pass.

    Args:
        options: by name; of a nested one with ``#``, as ``train#trainer#amp``.

    Raises:
        OptionError: the first that breaks its rule.
    """
    for name, value in options.items():
        rule = RULES.get(name)
        if rule is None or (isinstance(value, str) and value.startswith(EXPRESSIONS)) or rule.holds(value):
            continue
        close = get_close_matches(value, rule.choices, n=1) if isinstance(value, str) and "," not in value else []
        remedy = f"Did you mean {close[0]}?" if close else rule.remedy
        raise OptionError(f"{name}: expected {rule.expected}, received {value!r}. {remedy}".rstrip())


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(holds: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and holds(value)


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(choice) and value == choice for choice in choices)


def _choice(*choices: str, several: str = "") -> Rule:
    """One of some words; ``several`` says how to ask for more than one."""
    *most, last = choices
    return Rule(f"{', '.join(most)} or {last}", _one_of(*choices), several, choices)


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _folder(writable: bool) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        path = Path(str(value)).absolute()  # a folder may be called 2024
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        return there.is_dir() and (os.access(there, os.W_OK) or not writable)

    return holds


def _is_device(value: Any) -> bool:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        return False
    return device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()


TRUE_OR_FALSE = Rule("True or False", lambda value: isinstance(value, bool))
AT_LEAST_1 = Rule("a whole number of 1 or more", _whole(1))

RULES = {
    "num_labeled": Rule(
        "a whole number of 1 or more, or all", lambda value: value is None or value == "all" or _whole(1)(value)
    ),
    "num_test": Rule("a whole number of 0 or more, or None", _or_none(_whole(0))),
    "split_seed": Rule("a whole number", _whole(-(2**63))),
    "seed": Rule("a whole number of 0 or more", _whole(0)),
    "fold": Rule("the number of a fold, all or auto", lambda value: value in ("all", "auto") or str(value).isdecimal()),
    "preset": _choice("plan", "resenc_m", "resenc_l", "resenc_xl", "paper"),
    "configuration": _choice(
        *CONFIGURATIONS,
        CASCADE,
        "auto",
        several="Several: python -m mcsc_bundle cross_validate DATA RUNS --configurations 2d,3d_fullres.",
    ),
    "memory_gb": Rule(
        "a number of GB above 0, or None", _or_none(_number(lambda value: value > 0)), "Give 8 for 8 GB."
    ),
    "step_seconds": Rule("a number of seconds above 0, or None", _or_none(_number(lambda value: value > 0))),
    "workers": Rule("a whole number of 1 or more, or None", _or_none(_whole(1))),
    "amp_dtype": Rule("bfloat16, float16, float32 or None", _or_none(_one_of(*AMP_DTYPES))),
    "max_epochs": AT_LEAST_1,
    "epoch_length": AT_LEAST_1,
    "val_interval": AT_LEAST_1,
    "lr": Rule("a number of 0 or more", _number(lambda value: 0 <= value < float("inf")), YAML_FLOAT),
    "transformer_lr": Rule("a number of 0 or more", _number(lambda value: 0 <= value < float("inf")), YAML_FLOAT),
    "device": Rule("cpu, or a GPU that is there (cuda, cuda:1, ...)", _is_device),
    "output_dir": Rule("a folder that can be written to", _folder(writable=True), "Choose another one."),
    "cache_dir": Rule("a folder, or None", _or_none(_folder(writable=False)), "Choose another one."),
    "branch": _choice("cnn", "transformer", "both"),
    "check_memory": TRUE_OR_FALSE,
    "deep_supervision": TRUE_OR_FALSE,
    "mirror": TRUE_OR_FALSE,
    "save_probabilities": TRUE_OR_FALSE,
    "leeway": Rule("a number from 0 to 0.5", _number(lambda value: 0 <= value <= 0.5)),
    "overlap": Rule("a number from 0 to below 1, or None", _or_none(_number(lambda value: 0 <= value < 1))),
    **dict.fromkeys(
        ("evaluator#amp", "validate#evaluator#amp"),
        Rule("amp_dtype in its place (float32: no mixed precision)", lambda value: False),
    ),
    "networks": Rule(
        "a part of the config",
        lambda value: isinstance(value, Mapping),
        "To train the CNN alone: configs/method_supervised.yaml over train.yaml; to plan for it alone: --prepared#networks cnn.",
    ),
    "train#trainer#amp": TRUE_OR_FALSE,
    "train#trainer#compile": TRUE_OR_FALSE,
}
