"""Splits to choose settings on: none of their test cases is a test case of the kept results that are there when it is run.

    python -m benchmarks.tune_splits ../shared/data/hippocampus benchmarks/results/hippocampus benchmarks/splits/hippocampus_tune

Writes ``PREFIX_0.json``, ``PREFIX_1.json``, ... for ``label_efficiency --splits``. They share their test cases and have labels of
other patients each; no patient is on two sides of one.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from preprocessing.dataset import read_dataset


def tune_splits(groups: dict[str, str], tested: set[str], number: int, labeled: int, test: int) -> list[dict]:
    """Case names under ``labeled``, ``unlabeled`` and ``test`` of each split.

    Args:
        groups: the patient of each labelled case.
        tested: cases of the tables' test parts; their patients stay out of the test parts here.
        number: of splits.
        labeled, test: cases of a split, or a few more, since patients are taken whole.

    Raises:
        ValueError: there are not so many patients.
    """
    patients: dict[str, list[str]] = {}
    for name in sorted(groups):
        patients.setdefault(groups[name], []).append(name)
    seen = {groups[name] for name in tested}
    order = sorted(set(patients) - seen)
    random.Random(0).shuffle(order)

    def take(count: int) -> list[str]:
        taken: list[str] = []
        while len(taken) < count:
            if not order:
                raise ValueError(
                    f"expected patients for {number} splits of {labeled} labelled and {test} test cases, received "
                    f"{len(set(patients) - seen)} that the results do not test; ask for fewer."
                )
            taken += patients[order.pop(0)]
        return taken

    test_cases = take(test)
    splits = []
    for labels in [take(labeled) for _ in range(number)]:
        away = {groups[name] for name in (*test_cases, *labels)}
        others = [name for name in sorted(groups) if groups[name] not in away]
        splits.append({"labeled": sorted(labels), "unlabeled": others, "test": sorted(test_cases)})
    return splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("results", type=Path, help="kept results, whose test cases are left alone")
    parser.add_argument("prefix", help="of the files that are written")
    parser.add_argument("--number", type=int, default=3)
    parser.add_argument("--labeled", type=int, default=4)
    parser.add_argument("--num_test", type=int, default=30)
    arguments = parser.parse_args()
    groups = {case.name: case.group for case in read_dataset(arguments.dataset_dir).cases if case.label is not None}
    tested = {name for file in arguments.results.glob("*.json") for name in json.loads(file.read_text())["cases"]}
    splits = tune_splits(groups, tested, arguments.number, arguments.labeled, arguments.num_test)
    for number, split in enumerate(splits):
        Path(f"{arguments.prefix}_{number}.json").write_text(json.dumps(split, indent=1) + "\n")


if __name__ == "__main__":
    main()
