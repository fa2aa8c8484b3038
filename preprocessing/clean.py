"""Frees what a run stored for plans that it no longer has: a changed plan stores its cases anew, under another key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcsc_bundle.first_stage import FILE as PREVIOUS
from mcsc_bundle.first_stage import remembered_key
from mcsc_bundle.plan import Plan, PlanError

KEY = re.compile(r"[0-9a-f]{16}")  # Plan.data_key
STORED = re.compile(
    r"(?P<temporary>\.\d+\.)?(?P<case>.+?)(\.image\.b2nd|\.label\.b2nd|\.foreground\.npz|\.json|"
    r"\.previous(\.(?P<stage>[0-9a-f]{8}))?\.(?P<mask>b2nd|txt))"
)


@dataclass(frozen=True)
class Unused:
    """Stored files that no plan uses.

    Args:
        folder: where they lie.
        files: all of them.
        cases: how many cases they belong to.
        why: in words.
    """

    folder: Path
    files: tuple[Path, ...]
    cases: int
    why: str

    @property
    def bytes(self) -> int:
        """What removing them frees."""
        return sum(path.stat().st_size for path in self.files if path.exists())


def find_unused(run: Path) -> list[Unused]:
    """Stored cases of a run that no plan in it uses.

    Every ``plan.json`` in the folder counts, at any depth. Cases of a plan in use go only if the split no longer has
    them, masks of a first stage only if no ``previous.json`` remembers its networks. Files that are not ours, and a cache outside
    the run (``--cache_dir``), are never touched.

    Raises:
        PlanError: the folder has no plan, or one that cannot be read: then nothing can be called unused.
    """
    plans = [path for path in sorted(run.rglob("plan.json")) if run / "preprocessed" not in path.parents]
    if not plans:
        raise PlanError(f"expected a run folder with a plan.json, received {run}. Give the --output_dir of a training.")
    used = {Plan.load(path).data_key for path in plans}
    known, stages = _split_cases(run), _stages(run)
    found = []
    for folder in _stores(run):
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and STORED.fullmatch(path.name)]
        if folder.name not in used:
            found.append(_unused(folder, files, "no plan uses it"))
            continue
        gone = [path for path in files if known and _case(path) not in known]
        found.append(_unused(folder, gone, "cases that the split no longer has"))
        masks = [path for path in files if path not in gone and _is_mask_of_others(path, stages)]
        found.append(_unused(folder, masks, "masks of a first stage that no run refines"))
    return [each for each in found if each.files]


def remove(unused: Iterable[Unused]) -> None:
    """Delete them, each case's JSON file first: from then on the case does not exist."""
    for each in unused:
        for path in sorted(each.files, key=lambda path: path.suffix != ".json"):
            path.unlink(missing_ok=True)
        if not any(each.folder.iterdir()):
            each.folder.rmdir()


def listing(unused: Iterable[Unused], removed: bool) -> str:
    """One line per folder, and the sum."""
    unused = list(unused)
    sizes = [each.bytes for each in unused]
    lines = [
        f"{each.folder}  {each.cases} cases  {size / 2**20:.1f} MiB  ({each.why})"
        for each, size in zip(unused, sizes, strict=True)
    ]
    verb = "freed" if removed else "would be freed; run without --dry_run to remove them"
    return "\n".join([*lines, f"{sum(sizes) / 2**20:.1f} MiB {verb}."] if lines else ["Every stored case is in use."])


def _stores(run: Path) -> Iterator[Path]:
    folder = run / "preprocessed"
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_dir() and KEY.fullmatch(path.name))


def _unused(folder: Path, files: list[Path], why: str) -> Unused:
    return Unused(folder, tuple(files), len({_case(path) for path in files}), why)


def _case(path: Path) -> str:
    match = STORED.fullmatch(path.name)
    return match["case"] if match else ""


def _is_mask_of_others(path: Path, stages: set[str] | None) -> bool:
    """Whether it holds a mask of none of the first stages; masks of older versions name none."""
    match = STORED.fullmatch(path.name)
    return stages is not None and match is not None and bool(match["mask"]) and match["stage"] not in stages


def _stages(run: Path) -> set[str] | None:
    """Of every run in the folder, the key of its first stage; ``None`` if one cannot be read."""
    try:
        return {remembered_key(path.parent) for path in run.rglob(PREVIOUS)}
    except ValueError:
        return None


def _split_cases(run: Path) -> set[str]:
    """Cases of every split in the run; none if there is no split or one cannot be read."""
    try:
        splits = [json.loads(path.read_text(encoding="utf-8")) for path in run.rglob("splits.json")]
    except ValueError:
        return set()
    return {name for split in splits for part in ("labeled", "unlabeled", "test") for name in split.get(part, ())}
