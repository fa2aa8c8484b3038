"""Splits of ACDC by patient, as the published tables have them: files for ``label_efficiency --splits``.

    python -m benchmarks.acdc_splits DATA benchmarks/splits

Labelled are the frames of the first 1, 3, 7 (or all) patients of SSL4MIS's ``train.list`` (HiLab-git/SSL4MIS), unlabelled those
of its other training patients. Test cases are the ten patients of its validation part: nothing is chosen on them. Settings are
chosen on ``acdc_tune_0.json``, ``acdc_tune_1.json``, ...: three labelled patients each, behind the first seven, and the last ten
training patients as test cases.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

BUDGETS = (1, 3, 7, None)
TUNE_SPLITS, TUNE_LABELED, TUNE_TEST = 3, 3, 10


def split(train: list[str], test: list[str], patients: int | None) -> dict[str, list[str]]:
    """Case names under ``labeled``, ``unlabeled`` and ``test``.

    Args:
        train: frames ``patientNNN_frameMM`` of the training part, in the list's order.
        test: frames of the validation part.
        patients: how many of the first patients keep their labels; ``None``: all.
    """
    order = list(dict.fromkeys(name.split("_")[0] for name in train))
    kept = set(order[:patients])
    return {
        "labeled": [name for name in train if name.split("_")[0] in kept],
        "unlabeled": [name for name in train if name.split("_")[0] not in kept],
        "test": test,
    }


def tune_split(train: list[str], number: int) -> dict[str, list[str]]:
    """The ``number``-th split of the training part alone, keys as of ``split``; labels are of other patients in each."""
    order = list(dict.fromkeys(name.split("_")[0] for name in train))
    first = max(budget or 0 for budget in BUDGETS) + number * TUNE_LABELED
    labeled, test = set(order[first : first + TUNE_LABELED]), set(order[-TUNE_TEST:])
    part = {name: name.split("_")[0] for name in train}
    return {
        "labeled": [name for name in train if part[name] in labeled],
        "unlabeled": [name for name in train if part[name] not in labeled | test],
        "test": [name for name in train if part[name] in test],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path, help="with train.list and cases.json")
    parser.add_argument("output_dir", type=Path)
    arguments = parser.parse_args()
    train = (arguments.dataset_dir / "train.list").read_text().split()
    cases = json.loads((arguments.dataset_dir / "cases.json").read_text())
    test = sorted(case["id"] for case in cases if case["part"] == "val")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    splits = {f"acdc_{patients or 'all'}": split(train, test, patients) for patients in BUDGETS}
    splits |= {f"acdc_tune_{number}": tune_split(train, number) for number in range(TUNE_SPLITS)}
    for name, parts in splits.items():
        path = arguments.output_dir / f"{name}.json"
        path.write_text(json.dumps(parts, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
