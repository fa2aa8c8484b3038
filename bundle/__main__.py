"""Command line of what comes after training.

python -m bundle pack RUN --name NAME [--output_dir dist] [--version 0.1.0]   a bundle folder and its zip from a run
python -m bundle verify BUNDLE                                                a checklist; fails if a point does
python -m bundle export BUNDLE --run_dir RUN                                  ONNX, and how the exports compare
python -m bundle publish BUNDLE --repo OWNER/NAME [--dry_run True]            to the Hugging Face hub
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import fire
from fire.decorators import SetParseFns

from bundle.export import export
from bundle.facts import PackError
from bundle.pack import LARGE_FILES_URL, data_terms, pack
from bundle.publish import publish
from bundle.terms import PROJECT, Credits
from bundle.verify import report
from mcsc_bundle.files import DiskError
from mcsc_bundle.flags import check_flags_or_exit
from mcsc_bundle.plan import PlanError


@SetParseFns(  # Fire would read "Smith, Jones" as a tuple and 1 as a number
    **dict.fromkeys(
        ("name", "version", "changes", "data_source", "data_license", "authors", "copyright", "description"), str
    )
)
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
    authors: str = Credits.authors,
    copyright: str = "",
    description: str = "",
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
        authors: names of people or of a group, for metadata and card.
        copyright: the line; of the authors if left out.
        description: one sentence; made of run and plan if left out.
    """
    credits = Credits(authors, copyright, description)
    terms = data_terms(dataset_dir, data_source, data_license)
    folder, archive = pack(run_dir, name, terms, output_dir, str(version), changes, pictures, large_files_url, credits)
    print(f"{folder}\n{archive}")
    if credits == PROJECT:
        print(f"Authors: {credits.authors} (--authors NAMES to give yours).")


def export_bundle(bundle_dir: str, run_dir: str, onnx: bool = True, windows: int = 20) -> None:
    """Export a bundle's network, compare the forms on windows of the run, and write the numbers into the card.

    Args:
        bundle_dir: the packed folder.
        run_dir: the run it was packed from.
        onnx: also make models/model.onnx.
        windows: how many to compare on.
    """
    for row in export(bundle_dir, run_dir, onnx, windows):
        print(
            f"{row.form:14} largest deviation {row.deviation:.1e}, same class on {row.same:.4%} of the voxels, "
            f"{row.milliseconds:.1f} ms per window"
        )


def publish_bundle(bundle_dir: str, repo: str, dry_run: bool = False, private: bool = True, run: bool = True) -> None:
    """Verify a bundle and send it to the Hugging Face hub.

    Args:
        bundle_dir: the packed folder.
        repo: OWNER/NAME on the hub.
        dry_run: list what would be sent, and send nothing.
        private: whether a repository that is made is private.
        run: whether verifying runs the bundle.
    """
    lines = publish(bundle_dir, repo, dry_run, private, run)
    print(f"{'would go' if dry_run else 'sent'} to https://huggingface.co/{repo}:")
    print("\n".join(lines))


VERBS: dict[str, Callable[..., Any]] = {
    "pack": pack_run,
    "verify": report,
    "export": export_bundle,
    "publish": publish_bundle,
}


def main(arguments: list[str]) -> None:
    """Dispatch; a user's mistake ends with its message instead of a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bundle").setLevel(logging.INFO)
    check_flags_or_exit(arguments, VERBS)
    try:
        fire.Fire(VERBS, command=arguments, name="python -m bundle")
    except (DiskError, PackError, PlanError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
