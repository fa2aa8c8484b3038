"""The folder that masks are written to: what is done, what was set aside and why, and the table at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from mcsc_bundle.csv_log import read_rows, write_rows
from mcsc_bundle.files import DiskError
from mcsc_bundle.formats import IMAGE_SUFFIXES
from mcsc_bundle.io import case_name
from mcsc_bundle.keep_largest import REMOVED
from mcsc_bundle.labels import inside
from mcsc_bundle.plan import Plan, to_plain
from mcsc_bundle.words import aligned, counted
from mcsc_bundle.writer import mask_file

log = logging.getLogger(__name__)

MUCH = 0.15  # removed voxels, as a share of all: more than islands usually are
NOT_SHOWN = ("case", "error", "settings", "inputs")  # columns of summary.csv that the table leaves out or places itself


class Predictions:
    """Masks of the cases, with ``summary.csv`` beside them, written anew after each case.

    A case is done if its mask is there, was made with these settings (plan, weights, options), and of files that have kept
    place, size and time since; others are pending. Times alone would miss an image that was replaced by an older one.
    Rows of other cases, of a folder that was predicted before into this one, stay in ``summary.csv`` while their mask is there.
    Under ``torch.distributed`` the pending cases are dealt out by rank; each rank keeps its own account, which
    ``gather`` joins.

    Args:
        output_dir: the folder.
        plan: the plan; part of the settings.
        cases: from ``find_cases``.
        settings: whatever else decides the masks; a ``Path`` (or a list of them) counts by the content of its file.
    """

    def __init__(
        self, output_dir: str | Path, plan: Plan, cases: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> None:
        self.folder, self.plan, self.cases = Path(output_dir), plan, list(cases)
        self.settings = _hash({"plan": to_plain(plan), **settings})
        self._refuse_to_overwrite()
        if settings.get("save_probabilities"):
            self._refuse_one_name_for_two()
        self.inputs = {item["case"]: _files_key(item["image"]) for item in self.cases}  # before they are read
        self.rank, self.world = _rank_and_world()
        known = {case: row for path in self._accounts() for case, row in _read_rows(path).items()}
        self.rows = {item["case"]: known[item["case"]] for item in self.cases if self._is_done(item, known)}
        self.others = {case: row for case, row in known.items() if case not in self.inputs and self._has_mask(case)}
        self._tell_replaced(known)
        pending = [dict(item) for item in self.cases if item["case"] not in self.rows]
        self.pending = pending[self.rank :: self.world]
        self._settle()
        if self.rows and self.rank == 0:
            log.info("Done already: %d of %s.", len(self.rows), counted(len(self.cases), "case"))

    @property
    def failed(self) -> dict[str, str]:
        """Case and reason of those that were set aside."""
        return {case: row["error"] for case, row in self.rows.items() if row["error"]}

    def begin(self) -> None:
        """Write an account before the first mask is written: it tells whose the masks are, should this be killed in between."""
        self._save(self._own_account())

    def add(self, case: str, mask: MetaTensor, seconds: float) -> None:
        """Count a finished case.

        Args:
            case: its name.
            mask: label values ``(1, *spatial)`` on the original grid.
            seconds: from opening the image to the written mask.
        """
        values, unit = mask.as_tensor().numpy(), self._unit(mask)
        row: dict[str, Any] = {"seconds": f"{seconds:.1f}"}
        for name, own in list(self.plan.scored_values.items())[1:]:
            voxels = int(np.count_nonzero(inside(values, own)))
            row |= {f"{name}_voxels": voxels, f"{name}_{unit[0]}": f"{voxels * unit[1]:.3f}"}
        removed, left = int(mask.meta.get(REMOVED, 0)), int(np.count_nonzero(values))
        if REMOVED in mask.meta:
            row[REMOVED] = removed
        self._record(case, row)
        sizes = ", ".join(f"{name} {row[f'{name}_{unit[0]}']} {unit[0]}" for name in self.plan.class_names[1:])
        log.info("%d/%d %s: %.1f s, %s", len(self.rows), len(self.cases), case, seconds, sizes)
        if removed > MUCH * (removed + left):
            log.warning(
                "%s: %.0f %% of what the networks marked was not in the largest components and is background now. Look at the "
                "mask; --postprocess False keeps all.", case, 100 * removed / (removed + left),
            )  # fmt: skip

    def fail(self, case: str, error: str) -> None:
        """Set a case aside. A mask of other weights, or of another image, would be taken for its own, and goes."""
        for image in (item["image"][0] for item in self.cases if item["case"] == case):
            mask, probabilities = (mask_file(self.folder, case, image, each) for each in (False, True))
            masks_of_others = case_name(probabilities) in (*self.inputs, *self.others)
            for path in (mask,) if masks_of_others else (mask, probabilities):
                with suppress(OSError):  # a folder that nothing can be written to is told where the account is
                    path.unlink(missing_ok=True)
        self._record(case, {"error": error})
        log.warning("%d/%d %s was set aside: %s", len(self.rows), len(self.cases), case, error)

    def gather(self) -> None:
        """Join the accounts of all ranks in ``summary.csv``; every rank then knows every case."""
        if self.world == 1:
            return
        _wait_for_all()
        for path in self._accounts():
            self.rows = {case: row for case, row in _read_rows(path).items() if self._is_mine(case, row)} | self.rows
        self._settle()

    def table(self) -> str:
        """All cases in columns, those that were set aside with their reason below."""
        columns = ["case", *dict.fromkeys(key for row in self.rows.values() for key in row if key not in NOT_SHOWN)]
        lines = [columns] + [
            [str(row.get(key, "")) for key in columns] for _, row in sorted(self.rows.items()) if not row["error"]
        ]
        text = aligned(lines, right=True)
        text += [f"set aside: {case}: {error}" for case, error in sorted(self.failed.items())]
        return "\n".join(text)

    def _record(self, case: str, row: Mapping[str, Any]) -> None:
        key = {"settings": self.settings, "inputs": self.inputs.get(case, "")}
        self.rows[case] = {"case": case, "error": "", **row, **key}
        self._save(self._own_account())

    def _refuse_to_overwrite(self) -> None:
        """No mask may lie among the images, where it would be taken for one, nor replace what is not ours, such as a label.

        Raises:
            SystemExit: one would; nothing has been written yet.
        """
        ours = any(path.exists() for path in self._accounts())
        if os.path.realpath(self.folder) in {
            os.path.realpath(Path(path).parent) for item in self.cases for path in item["image"]
        }:
            raise SystemExit(
                f"error: expected output_dir to be another folder than that of the images, received {self.folder}: the next "
                "command that reads it would take the masks for images, or a mask the place of one. Choose another."
            )
        for item in self.cases:
            mask = mask_file(self.folder, item["case"], item["image"][0])
            if not ours and mask.exists():
                raise SystemExit(
                    f"error: expected output_dir to be a new folder or one of masks, received {self.folder}: it has no "
                    f"summary.csv, and the mask of {item['case']} would replace {mask}. Choose another, or remove what is in it."
                )

    def _refuse_one_name_for_two(self) -> None:
        """The probabilities of ``a`` have the name of a mask of ``a_probabilities``.

        Raises:
            SystemExit: there are both.
        """
        files: dict[Path, str] = {}
        for item in self.cases:
            for probabilities in (False, True):
                path = mask_file(self.folder, item["case"], item["image"][0], probabilities)
                other = files.setdefault(path, item["case"])
                if other != item["case"]:
                    raise SystemExit(
                        f"error: expected names that differ, received the cases {other} and {item['case']}, which would both "
                        f"write {path.name}. Rename one."
                    )

    def _tell_replaced(self, known: Mapping[str, Mapping[str, str]]) -> None:
        again = [
            item["case"]
            for item in self.cases
            if item["case"] in known
            and item["case"] not in self.rows
            and mask_file(self.folder, item["case"], item["image"][0]).exists()
        ]
        if again and self.rank == 0:
            log.warning(
                "%s of other weights, options or image files in %s: made anew, first that of %s.",
                counted(len(again), "mask"), self.folder, again[0],
            )  # fmt: skip

    def _has_mask(self, case: str) -> bool:
        return any((self.folder / f"{case}{suffix}").exists() for suffix in IMAGE_SUFFIXES)

    def _settle(self) -> None:
        """Once every rank has read all accounts: what is known goes to ``summary.csv``, the ranks' own ones go away."""
        _wait_for_all()
        if self.rank == 0:
            if self.rows or self.others:
                self._save(self.folder / "summary.csv")
            for path in self._accounts()[1:]:
                path.unlink()
        _wait_for_all()

    def _is_mine(self, case: str, row: Mapping[str, str]) -> bool:
        return row.get("settings") == self.settings and row.get("inputs", "") == self.inputs.get(case)

    def _own_account(self) -> Path:
        return self.folder / ("summary.csv" if self.world == 1 else f".summary.{self.rank}.csv")

    def _accounts(self) -> list[Path]:
        """``summary.csv``, and what ranks that were stopped or still run have left."""
        return [self.folder / "summary.csv", *sorted(self.folder.glob(".summary.*.csv"))]

    def _save(self, path: Path) -> None:
        all_rows = self.rows | (self.others if path.name == "summary.csv" else {})
        rows = [all_rows[name] for name in sorted(all_rows)]
        columns = dict.fromkeys(["case", "error", *(key for row in rows for key in row)])
        try:
            write_rows(path, rows, sorted(columns, key=lambda key: key in ("error", "settings", "inputs")))
        except DiskError as error:  # without the account nobody would know what is done
            raise SystemExit(f"error: {error}") from None

    def _is_done(self, item: Mapping[str, Any], known: Mapping[str, Mapping[str, str]]) -> bool:
        row, mask = known.get(item["case"]), mask_file(self.folder, item["case"], item["image"][0])
        if row is None or row.get("error") or row.get("settings") != self.settings or not mask.exists():
            return False
        return bool(self.inputs[item["case"]]) and row.get("inputs") == self.inputs[item["case"]]

    def _unit(self, mask: MetaTensor) -> tuple[str, float]:
        size = abs(float(np.linalg.det(np.asarray(mask.affine)[:-1, :-1])))
        return ("ml", size / 1000) if mask.ndim == 4 else ("cm2", size / 100)


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _wait_for_all() -> None:
    if _rank_and_world()[1] > 1:
        torch.distributed.barrier()


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    return {
        row["case"]: {key: value for key, value in row.items() if value or key == "error"} for row in read_rows(path)
    }


def _files_key(paths: Sequence[str]) -> str:
    """Place, size and time of files; empty if one is not there."""
    try:
        stats = [(os.path.abspath(path), os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
    except OSError:  # whoever reads the case will say what is wrong
        return ""
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]


def _hash(settings: Mapping[str, Any]) -> str:
    content = {name: _content(value) for name, value in settings.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _content(value: Any) -> Any:
    if isinstance(value, list):
        return [_content(item) for item in value]
    return hashlib.blake2b(value.read_bytes()).hexdigest() if isinstance(value, Path) else value
