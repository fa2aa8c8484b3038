"""How a plan's Transformer starts to learn: as it is, with the first weights of Swin, and without the image at full size.

    python -m benchmarks.transformer_start --dataset_dir DATA --output_dir OUT [--num_labeled 10] [--iterations 300]

CNN and Transformer are trained beside each other on the labels alone (cross teaching of weight 0) by the product's own command,
with the same patches in each form. The table has the mean supervised loss of the last 25 steps, and the Dice of the Transformer
(``branch: transformer``) on cases that were kept out. A form that is done is skipped. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.kept_results import kept_result
from benchmarks.label_efficiency import ONE_PASS, ROOT, run_workflow, workflow_of
from benchmarks.label_jobs import config_files
from benchmarks.label_table import mean_dice_per_case
from mcsc_bundle.csv_log import read_rows
from mcsc_bundle.networks.swin_unet import PAPER_STD, SwinUNet, initialise
from mcsc_bundle.words import aligned


def swin_weights(network: SwinUNet) -> None:
    """First weights of Swin: of one deviation, whatever the width."""
    network.apply(lambda module: initialise(module, PAPER_STD))


def tokens_alone(network: SwinUNet) -> None:
    """No image at full size: its normalisation gives 0 and stays so."""
    for parameter in network.stem.parameters():
        parameter.requires_grad_(False).zero_()


def both(network: SwinUNet) -> None:
    """As in Swin-Unet."""
    swin_weights(network)
    tokens_alone(network)


FORMS: dict[str, Callable[[SwinUNet], Any]] = {
    "as planned": lambda network: None,
    "tokens alone": tokens_alone,
    "Swin's first weights": swin_weights,
    "both, as Swin-Unet": both,
}


def run_form(form: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one form; the result is kept in ``result.json``, and refused under other options."""
    result_file, settings = folder / "result.json", options
    if (result := kept_result(result_file, settings)) is not None:
        return result
    options = options | {"output_dir": str(folder), "cache_dir": str(folder.parent / "preprocessed")}
    files = config_files("cross_teaching")
    training = workflow_of(files, "training", options | {"method#weight": 0.0, "deep_supervision": False})
    FORMS[form](training.parser.get_parsed_content("networks").transformer)
    training.run()
    evaluate = [*files, str(ROOT / "configs" / "evaluate.yaml")]
    run_workflow(evaluate, "evaluate", options | ONE_PASS | {"branch": "transformer"})
    last = read_rows(folder / "log.csv")[-1]
    result = {
        "settings": settings,
        "cnn_loss": float(last["supervised_cnn"]),
        "transformer_loss": float(last["supervised_transformer"]),
        "transformer_dice": 100 * statistics.mean(mean_dice_per_case(folder / "metrics.csv").values()),
    }
    result_file.write_text(json.dumps(result))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_labeled", type=int, default=10)
    parser.add_argument("--num_test", type=int, default=40)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--overrides", default="{}", help="JSON of further config overrides")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    options = {
        "dataset_dir": arguments.dataset_dir, "num_labeled": arguments.num_labeled, "num_test": arguments.num_test,
        "fold": "all", "epoch_length": 25, "max_epochs": arguments.iterations // 25, "val_interval": 10**6,
        **json.loads(arguments.overrides),
    }  # fmt: skip
    results = {}
    for form in FORMS:
        results[form] = run_form(form, arguments.output_dir / re.sub("[^A-Za-z]+", "_", form), options)
    columns = ["cnn_loss", "transformer_loss", "transformer_dice"]
    lines = [[form, *(f"{result[column]:.3f}" for column in columns)] for form, result in results.items()]
    print("\n".join(aligned([["form", *columns], *lines])))
    print(json.dumps({form: {column: result[column] for column in columns} for form, result in results.items()}))


if __name__ == "__main__":
    main()
