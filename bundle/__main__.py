"""Command line of what comes after training.

python -m bundle pack RUN --name NAME [--output_dir dist] [--version 0.1.0]   a bundle folder and its zip from a run
python -m bundle verify BUNDLE                                                a checklist; fails if a point does
"""

from __future__ import annotations

import logging
import sys

import fire

from bundle.facts import PackError
from bundle.pack import LARGE_FILES_URL, data_terms, pack
from bundle.verify import report


def pack_run(
    run_dir: str,
    name: str,
    output_dir: str = "dist",
    version: str = "0.1.0",
    changes: str = "first version",
    dataset_dir: str | None = None,
    data_source: str | None = None,
    data_license: str | None = None,
    pictures: bool = True,
    large_files_url: str = LARGE_FILES_URL,
) -> None:
    """Make a bundle of a trained run.

    Args:
        run_dir: the folder of the training.
        name: of the bundle, e.g. hippocampus_mri_segmentation.
        output_dir: where NAME/ and NAME_vVERSION.zip go.
        version: three numbers.
        changes: what is new, for the changelog.
        dataset_dir: the data set, whose dataset.json may hold reference and licence.
        data_source, data_license: the same in words; the licence may be a file.
        pictures: show a scan of the data set in the model card.
        large_files_url: where files over 25 MB will lie.
    """
    terms = data_terms(dataset_dir, data_source, data_license)
    folder, archive = pack(run_dir, name, terms, output_dir, str(version), changes, pictures, large_files_url)
    print(f"{folder}\n{archive}")


VERBS = {"pack": pack_run, "verify": report}


def main(arguments: list[str]) -> None:
    """Dispatch; a user's mistake ends with its message instead of a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        fire.Fire(VERBS, command=arguments, name="python -m bundle")
    except PackError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
