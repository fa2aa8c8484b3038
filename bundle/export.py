"""Other forms of the shipped network, and whether they say the same: TorchScript and ONNX on real windows of the run."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bundle.archive import pack_zip
from bundle.card import EXPORTS
from bundle.checking import metadata_of
from bundle.checks_of_content import check_code
from bundle.checks_of_files import check_checksums
from bundle.facts import PackError, load_weights
from bundle.markdown import table
from bundle.pack import seal
from bundle.torchscript import export_torchscript
from mcsc_bundle.ensemble import count_members, network_from_plan
from mcsc_bundle.files import replacing, save_text
from mcsc_bundle.outputs import Classes, outputs_of
from mcsc_bundle.plan import Plan
from mcsc_bundle.shipped import code_digest
from mcsc_bundle.store import CaseStore, store_folders

MIN_SAME_SHARE = 0.9999  # of the voxels of a window that must get the same class
OPSET = 18


@dataclass(frozen=True)
class Parity:
    """How one form of the network compares with PyTorch on the same windows.

    Args:
        form: which.
        deviation: largest absolute difference of a logit.
        same: smallest share of a window's voxels that get the same class.
        times: wall time of each window in milliseconds, in the order of the windows.
    """

    form: str
    deviation: float
    same: float
    times: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        """Median wall time of a window."""
        return statistics.median(self.times)


def export(bundle_dir: str | Path, run_dir: str | Path, onnx: bool = True, windows: int = 20) -> list[Parity]:
    """Make the other forms, compare them, and write the numbers into the card; the zip is made again.

    Args:
        bundle_dir: a packed bundle.
        run_dir: the run it was packed from, for windows of its stored cases.
        onnx: also ``models/model.onnx``, for one window size and any number of windows.
        windows: how many to compare on.

    Raises:
        PackError: the bundle was packed by another version, the run holds no stored cases, or a form disagrees.
    """
    bundle = Path(bundle_dir).resolve()
    if not (bundle / "configs" / "metadata.json").exists():
        raise PackError(
            f"expected a packed bundle, received {bundle_dir}. Pack one: python -m bundle pack RUN --name NAME."
        )
    check_checksums(bundle)
    check_code(bundle)
    if code_digest(bundle) != code_digest():
        raise PackError(f"{bundle}: expected a bundle of this version's code, received another. Pack the run again.")
    plan = Plan.load(bundle / "plan.json")
    batches = stored_windows(plan, Path(run_dir), windows)
    state = load_weights(bundle / "models" / "model.pt")
    network = network_from_plan(plan, count_members(state)).eval()
    network.load_state_dict(state)
    if not (bundle / "models" / "model.ts").exists():
        export_torchscript(bundle)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "TorchScript": torch.jit.load(bundle / "models" / "model.ts").eval()
    }
    if onnx:
        export_onnx(network, batches[0], bundle / "models" / "model.onnx")
        forms["ONNX Runtime"] = onnx_session(bundle / "models" / "model.onnx")
    rows = compare(network, forms, batches, outputs_of(plan))
    wrong = [row for row in rows if row.same < MIN_SAME_SHARE]
    if wrong:
        raise PackError(
            f"{bundle}: expected the same class on {MIN_SAME_SHARE:.2%} of the voxels of every window, received "
            + ", ".join(f"{row.same:.4%} from {row.form}" for row in wrong)
        )
    _write_card(bundle / "docs" / "README.md", rows, batches)
    seal(bundle)
    pack_zip(bundle, bundle.parent / f"{bundle.name}_v{metadata_of(bundle)['version']}.zip")
    return rows


def stored_windows(plan: Plan, run: Path, count: int) -> list[Tensor]:
    """Windows ``(1, C, *patch)`` from the middle of the run's stored cases, spread over all of them.

    Raises:
        PackError: the run holds no stored cases.
    """
    stores = [CaseStore(folder, plan.data_key) for folder in store_folders(run)]
    store = next((each for each in stores if any(each.folder.glob("*.json"))), stores[0])
    names = sorted(path.stem for path in store.folder.glob("*.json"))
    if not names:
        raise PackError(
            f"{run}: expected preprocessed cases in {store.folder}, found none. Give the run folder the bundle was packed "
            "from, with its preprocessed cases (python -m preprocessing makes them again)."
        )
    windows: list[Tensor] = []
    used: Counter[str] = Counter()
    for index in range(count):
        name = names[index * len(names) // count]
        case = store.open(name)
        start = [size // 2 - length // 2 for size, length in zip(case.shape, plan.image_patch_size, strict=True)]
        start[plan.slice_axis or 0] += used[name]  # another window of a case that had its turn
        used[name] += 1
        window = torch.from_numpy(case.read_image(start, plan.image_patch_size))
        windows.append((window if plan.slice_axis is None else window.squeeze(1 + plan.slice_axis))[None])
    return windows


def export_onnx(network: nn.Module, window: Tensor, path: Path) -> None:
    """ONNX of the network for windows of this size, any number at once.

    Raises:
        PackError: ``onnx`` and ``onnxscript`` are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PackError(
            f"expected the packages of the extra 'export', received {error}. pip install '.[export]'."
        ) from None
    pair = torch.cat([window, window])  # with one window, the exporter would take the number of windows for fixed
    program = torch.onnx.export(
        network, (pair,), input_names=["image"], output_names=["pred"], opset_version=OPSET, dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("windows")},), verbose=False,
    )  # fmt: skip
    assert program is not None  # as dynamo=True
    model = program.model_proto
    for part in (model.graph, *model.functions):
        for node in part.node:  # stack traces of this machine
            del node.metadata_props[:]
            node.doc_string = ""
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        onnx.save(model, str(temporary))


def onnx_session(path: Path) -> Callable[[Tensor], Tensor]:
    """The file as a function, on as many threads as PyTorch has.

    Raises:
        PackError: ``onnxruntime`` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise PackError(
            f"expected the packages of the extra 'export', received {error}. pip install '.[export]'."
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])


@torch.no_grad()
def compare(
    network: nn.Module,
    forms: dict[str, Callable[[Tensor], Tensor]],
    batches: Sequence[Tensor],
    outputs: Classes | None = None,
) -> list[Parity]:
    """PyTorch first, then each form, window by window; forms take turns, so that a busy machine slows all alike."""
    outputs = outputs or Classes()
    everything: dict[str, Callable[[Tensor], Tensor]] = {"PyTorch": network, **forms}
    deviations, shares = dict.fromkeys(everything, 0.0), dict.fromkeys(everything, 1.0)
    times: dict[str, list[float]] = {form: [] for form in everything}
    for run in everything.values():
        run(batches[0])  # the first call prepares
        run(batches[0])
    for batch in batches:
        expected = network(batch)
        for form, run in everything.items():
            began = time.perf_counter()
            received = run(batch)
            times[form].append(1000 * (time.perf_counter() - began))
            deviations[form] = max(deviations[form], float((received - expected).abs().max()))
            same = (outputs.hard(received) == outputs.hard(expected)).float().mean()
            shares[form] = min(shares[form], float(same))
    return [Parity(form, deviations[form], shares[form], tuple(times[form])) for form in everything]


def _write_card(card: Path, rows: Sequence[Parity], batches: Sequence[Tensor]) -> None:
    """Put the table below the card's marker, in place of an earlier one."""
    size = " x ".join(map(str, batches[0].shape[2:]))
    threads = torch.get_num_threads()
    cells = [(row.form, f"{row.deviation:.1e}", f"{row.same:.4%}", f"{row.milliseconds:.1f}") for row in rows]
    section = (
        f"{EXPORTS}\n\n## Exports\n\nOn {len(batches)} windows of {size} voxels from scans of the training, on a CPU with "
        f"{threads} thread{'s' if threads > 1 else ''}. Logits beside those of PyTorch.\n\n"
        + table(("form", "largest deviation", "voxels of the same class", "ms per window"), cells)
        + f"\n\n{EXPORTS}"
    )
    before, *_, after = card.read_text(encoding="utf-8").split(EXPORTS)
    save_text(card, before + section + after)
