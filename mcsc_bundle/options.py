"""Options that do not exist, found before any work: MONAI merges every ``--name value`` into its config, and a misspelt one
would do nothing at all.

``$@options`` is the first step of every workflow in ``configs/``. It looks at the command line of ``python -m monai.bundle
run``; where a program builds the workflow (``create_workflow``, MONAI Label), there is none and nothing is refused.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc import locate
from typing import Any

import monai.bundle
from fire.parser import DefaultParseValue
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from mcsc_bundle.interrupt import name_interrupts
from mcsc_bundle.option_values import OptionError, check_values

VERBS = ("run", "run_workflow")  # of monai.bundle
IDS = {"run_id": "run", "init_id": "initialize", "final_id": "finalize"}  # what MONAI runs by default
FLAG = re.compile(r"--|-(?=[A-Za-z])")
REFERENCE = re.compile(r"[@%](?:::|#)*(\w+)")
COMPONENT_KEYS = ("_target_", "_desc_", "_disabled_", "_mode_", "_requires_")
OTHER_NAMES = {
    "run_dir": "output_dir",
    "plan_file": "plan_from",
    "dimensions": "configuration",
}  # of one workflow, or of an earlier version


PATHS = ("dataset_dir", "output_dir", "cache_dir", "plan_from", "init_from", "split_file", "run_dir")
LISTED = ("run_dir", "previous")  # several runs may be given


@dataclass(frozen=True)
class CommandLine:
    """What was typed behind ``python -m monai.bundle``.

    Args:
        words: verb, run id, and what else is no option.
        options: name to value, parsed as MONAI parses it (Python Fire); those of an ``--args_file`` too.
        typed: name to text, as typed.
    """

    words: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    typed: dict[str, str] = field(default_factory=dict)

    @property
    def config_files(self) -> list[str]:
        """The main config and its overlays."""
        files = self.options.get("config_file") or []
        return [files] if isinstance(files, str) else [str(file) for file in files]


def check_command_line_or_exit() -> None:
    """For configs: a user's mistake ends the program with its message, before any work."""
    line = command_line()
    if line is None:
        return
    name_interrupts()
    try:
        if len(line.words) > 2:
            raise OptionError(
                f"expected options as --name value behind {' '.join(line.words[:2])}, received "
                f"{' '.join(line.words[2:])!r}. Quote a value that holds spaces, and a list of files: \"['A','B']\"."
            )
        check_options(line.config_files, line.options)
        refuse_left_out(line)
    except OptionError as error:
        raise SystemExit(f"error: {error}") from None


def command_line(arguments: Sequence[str] | None = None) -> CommandLine | None:
    """The command line of ``python -m monai.bundle run``; ``None`` in any other program.

    Args:
        arguments: ``None`` takes ``sys.argv``.
    """
    program, *rest = sys.argv if arguments is None else arguments
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or not rest or rest[0] not in VERBS:
        return None
    words, typed = _parse(rest)
    options = {name: DefaultParseValue(text) for name, text in typed.items()}
    if options.get("args_file"):
        options = {**_read(options["args_file"]), **options}
    return CommandLine(tuple(words), options, typed)


def check_options(config_files: Sequence[str], options: Mapping[str, Any], also: Iterable[str] = ()) -> None:
    """Refuse options that nothing in the config would use, and values that cannot be.

    An option is known if the config has its key, if something refers to it (``@name``), if MONAI itself takes it, or, for
    a nested one, if the component there takes it. The keys of overlay files follow the same rule.

    Args:
        config_files: the main config and its overlays.
        options: by name, nested ones with ``#`` or ``::``.
        also: options of the program itself, which may have been meant.

    Raises:
        OptionError: names every unknown one and what was likely meant, or the first value that cannot be.
    """
    missing = [file for file in config_files if not Path(file).is_file()]
    if missing:
        raise OptionError(f"config_file: expected files that are there, received {', '.join(missing)}.")
    main, *overlays = config_files
    _check_overlays(overlays)
    config = _read(list(config_files))
    used = references_in([config, dict(options)]) | _monai_names(options) | set(also)
    known = _read_one(main)
    for file in overlays:
        content = {name.lstrip("+"): value for name, value in _read_one(file).items() if not name.startswith("_")}
        workflows = {name for name, value in content.items() if isinstance(value, list)}  # evaluate, run, ...
        _refuse(f"{file}: expected keys that the config uses", content, known, used | workflows)
        known |= {name: value for name, value in content.items() if len(_parts(name)) == 1}
    # What lies inside of a part that is given whole has no place to look for.
    given = [name for name in options if len(_parts(name)) == 1 or _parts(name)[0] not in options]
    _refuse("expected options that exist", given, config, used, "--")
    _refuse_no_paths(options)
    if "deep_supervision" in options and "deep_supervision" not in references_in(config.get("method")):
        raise OptionError("--deep_supervision: this method has none of its own (urpc, bcp, mcsc_paper); leave it out.")
    check_values({**config, **{"#".join(_parts(name)): value for name, value in options.items()}})


def check_names(names: Iterable[str], accepted: Iterable[str]) -> None:
    """Refuse options that a function does not take.

    Args:
        names: what was given.
        accepted: what there is.

    Raises:
        OptionError: names all that are unknown, and what was likely meant.
    """
    _refuse("expected options that exist", names, dict.fromkeys(accepted), set(), "--")


def _check_overlays(files: Sequence[str]) -> None:
    """A training's main config among them would replace the others, and of two methods parts of both would stay."""
    for file in files:
        if {"training", "optimizer"} <= set(_read_one(file)):
            raise OptionError(f"config_file: expected {file} first, since the other files are laid over it.")
    methods = [file for file in files if "method" in _read_one(file)]
    if len(methods) > 1:
        raise OptionError(f"config_file: expected one method at most, received {', '.join(methods)}.")


def _refuse_no_paths(options: Mapping[str, Any]) -> None:
    """Fire reads ``2024`` as a number and ``['A','B']`` as a list, which no config could use as a path."""
    for name in (*PATHS, *LISTED):
        value = options.get(name)
        if isinstance(value, bool):
            raise OptionError(f"{name}: expected a path, received {value}.")
        if isinstance(value, (int, float)):
            raise OptionError(f"{name}: expected a path, received the number {value}. Write ./{value}.")
        if isinstance(value, (list, tuple)) and name not in LISTED:
            raise OptionError(f"{name}: expected one path, received {len(value)}: {', '.join(map(str, value))}.")


def refuse_left_out(line: CommandLine) -> None:
    """Refuse what MONAI would leave out without a word: it takes an option typed as None for one that was not given.

    Raises:
        OptionError: says how to write it.
    """
    config = _read(line.config_files)
    for name in line.typed:
        *path, last = _parts(name)
        place = _place(path, config) if path else config
        default = place.get(last, "its default") if isinstance(place, Mapping) else None
        if line.options[name] is None and default is not None:
            raise OptionError(
                f"--{name} None: MONAI leaves out options that are None, so it would stay {default!r}. Write --{name} '$None'."
            )


def _refuse(expected: str, names: Iterable[str], config: Mapping[str, Any], used: set[str], dashes: str = "") -> None:
    unknown = [name for name in names if not _known(name, config, used)]
    if not unknown:
        return
    near = [meant for name in unknown if (meant := _meant(_parts(name), config, used))]
    listed, meant_names = (", ".join(f"{dashes}{name}" for name in names) for names in (unknown, near))
    question = f" Did you mean {meant_names}?" if near else ""
    if "help" in unknown:
        question = " Options are listed in README.md, and in configs/train.yaml with what they mean."
    raise OptionError(f"{expected}, received {listed}, which nothing would use.{question}")


def _meant(parts: Sequence[str], config: Mapping[str, Any], used: set[str]) -> str | None:
    """The name with its first unknown part exchanged for the nearest one there."""
    for index, part in enumerate(parts):
        there = _keys(_place(parts[:index], config)) | (set() if index else used)
        if part not in there:
            other = OTHER_NAMES.get(part)
            near = [other] if other in there else difflib.get_close_matches(part, there, n=1)
            return "#".join([*parts[:index], near[0], *parts[index + 1 :]]) if near else None
    return None


def _parse(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Words and options as Fire tells them apart: ``--name value``, ``--name=value``, ``--name`` (True), ``-`` as ``_``."""
    words: list[str] = []
    typed: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":  # what follows is for Fire
            break
        if not FLAG.match(word):
            words.append(word)
            continue
        name, equals, value = FLAG.sub("", word, count=1).partition("=")
        if not equals:
            value = "True" if not waiting or FLAG.match(waiting[0]) else waiting.pop(0)
        typed[name.replace("-", "_")] = value
    return words, typed


def _read(files: str | list[str]) -> dict[str, Any]:
    """Merged."""
    return monai.bundle.ConfigParser.load_config_files(files)


def _read_one(file: str) -> dict[str, Any]:
    """With its keys as they are written there."""
    return dict(monai.bundle.ConfigParser.load_config_file(file) or {})


def _parts(name: str) -> list[str]:
    return name.replace("::", "#").split("#")


def _monai_names(options: Mapping[str, Any]) -> set[str]:
    """What MONAI's own functions take, and with ``--tracking`` what its handlers refer to."""
    functions = (monai.bundle.run, monai.bundle.create_workflow, monai.bundle.ConfigWorkflow.__init__)
    names = {name for function in functions for name in inspect.signature(function).parameters}
    ids = {str(options.get(name) or default) for name, default in IDS.items()}
    settings: dict[str, Any] = DEFAULT_EXP_MGMT_SETTINGS.get(str(options.get("tracking")), {})
    return (names - {"self", "override", "kwargs"}) | ids | {"imports", *settings.get("configs", {})}


def references_in(value: Any) -> set[str]:
    """Names of the keys that the texts of a config, or of a part of one, refer to by ``@``."""
    return {name for text in _texts(value) for name in REFERENCE.findall(text)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _known(name: str, config: Mapping[str, Any], used: set[str]) -> bool:
    *path, last = _parts(name)
    if name.startswith("_"):  # _meta_ and the like are MONAI's
        return True
    if not path:
        return name in config or name in used
    place = _place(path, config)
    if isinstance(place, list):
        return last.isdecimal() and int(last) < len(place)
    return last in _keys(place) or (_is_component(place) and _parameters(_target(place))[1])


def _place(path: Sequence[str], config: Any) -> Any:
    """What the config has there; ``None`` if nothing."""
    for part in path:
        if isinstance(config, list):
            config = config[int(part)] if part.isdecimal() and int(part) < len(config) else None
        else:
            config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _keys(place: Any) -> set[str]:
    """Keys of a part of the config, and what its component would take beside them."""
    keys = {str(key) for key in place if not str(key).startswith("_")} if isinstance(place, Mapping) else set()
    return keys | {*COMPONENT_KEYS, *_parameters(_target(place))[0]} if _is_component(place) else keys


def _is_component(place: Any) -> bool:
    return isinstance(place, Mapping) and "_target_" in place


def _target(component: Mapping[str, Any]) -> Any:
    return locate(ConfigComponent(dict(component), locator=ComponentLocator()).resolve_module_name())


def _parameters(target: Any) -> tuple[set[str], bool]:
    """Names of its parameters, and whether it passes others on to something unknown."""
    functions = (
        [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)]
        if inspect.isclass(target)
        else [target]
    )
    names: set[str] = set()
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return names, True
        names |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return names, False  # a class passes **kwargs on to the next in its line
    return names, not inspect.isclass(target)
