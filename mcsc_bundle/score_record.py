"""How the masks were made that ``metrics.csv`` scores: a bundle's card tells, and says where its own masks are made otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcsc_bundle.plan import Plan
from mcsc_bundle.plan_files import load_json, save_json
from mcsc_bundle.shipped import file_digest
from mcsc_bundle.words import in_turn

FILE = "scored.json"


@dataclass(frozen=True)
class ScoreRecord:
    """What decides masks beside weights and grid.

    Args:
        branch: ``cnn``, ``transformer`` or ``both``.
        mirror_axes: network axes of the flips that were averaged; empty for one pass.
        largest: groups of classes whose largest component was kept.
        weights: checksums of the files that held the networks, by name; empty in a record of an older version.
    """

    branch: str
    mirror_axes: tuple[int, ...]
    largest: tuple[tuple[str, ...], ...]
    weights: dict[str, str] = field(default_factory=dict, compare=False)

    def is_of(self, models_dir: Path) -> bool:
        """Whether the scores are of the weights that lie in a folder now, as far as the record tells."""
        files = {models_dir / name: digest for name, digest in self.weights.items()}
        return all(file.exists() and file_digest(file) == digest for file, digest in files.items())

    @classmethod
    def of_inference(cls, plan: Plan) -> ScoreRecord:
        """What inference does with a plan, unless it is told otherwise."""
        return cls("cnn", plan.mirror_axes, plan.largest_component)

    @property
    def words(self) -> str:
        """``by the CNN, averaged over mirror images, with all components``."""
        network = {"cnn": "the CNN", "transformer": "the Transformer"}.get(self.branch, "both networks")
        flips = "averaged over mirror images" if self.mirror_axes else "in one pass"
        kept = f"the largest component of {in_turn(self.largest)}" if self.largest else "all components"
        return f"by {network}, {flips}, with {kept}"


def save_record(
    run_dir: str | Path,
    plan: Plan,
    branch: str,
    mirror: bool,
    largest: Sequence[Sequence[str]],
    weights: Sequence[Path] = (),
) -> ScoreRecord:
    """Write ``scored.json`` beside ``metrics.csv``.

    Args:
        run_dir: where the scores are.
        plan: the plan.
        branch, mirror, largest: as in ``configs/evaluate.yaml``.
        weights: files of ``run_dir/models``; those of a cascade's first stage lie elsewhere and are left out.
    """
    models = (Path(run_dir) / "models").resolve()
    digests = {path.name: file_digest(path) for path in weights if path.resolve().parent == models}
    record = ScoreRecord(branch, plan.mirror_axes if mirror else (), tuple(map(tuple, largest)), digests)
    save_json(Path(run_dir) / FILE, record)
    return record


def is_current(run_dir: str | Path) -> bool:
    """Whether scores and picture of a run are of the weights that it has now, as far as is told."""
    record = read_record(run_dir)
    return record is None or record.is_of(Path(run_dir) / "models")


def read_record(run_dir: str | Path) -> ScoreRecord | None:
    """``scored.json`` of a folder; ``None`` where there is none, as for scores of an older version."""
    path = Path(run_dir) / FILE
    return load_json(path, ScoreRecord) if path.exists() else None
