"""A packed bundle to the Hugging Face hub, where the model zoo's bundles live (``MONAI/<name>``)."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import monai.bundle

from bundle.archive import files_of
from bundle.checking import metadata_of
from bundle.facts import PackError
from bundle.verify import verify

NOT_SENT = ("large_files.yml",)  # says where the files lie that are sent
REPOSITORY_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def publish(
    bundle_dir: str | Path, repo: str, dry_run: bool = False, private: bool = True, run: bool = True
) -> list[str]:
    """Check a bundle and send it, tagged with its version.

    The upload is MONAI's ``push_to_hf_hub``, which also makes the hub's ``README.md`` from the model card. It works on a
    copy, so that the bundle stays what was verified. The token is the one that ``hf auth login`` stored.

    Args:
        bundle_dir: the packed folder.
        repo: ``OWNER/NAME`` on the hub; it is made if it is not there.
        dry_run: verify, and list what would be sent, but send nothing.
        private: whether a repository that is made is private.
        run: whether verifying runs the bundle, see ``verify``.

    Returns:
        What is, or would be, sent: a line per file with its size.

    Raises:
        PackError: a point of the checklist failed, or the name of the repository is none.
    """
    bundle = Path(bundle_dir).resolve()
    if not REPOSITORY_NAME.fullmatch(repo):
        raise PackError(f"repo: expected OWNER/NAME, as MONAI/spleen_ct_segmentation, received {repo!r}.")
    if not bundle.is_dir():
        raise PackError(f"expected the folder of a packed bundle, received {bundle_dir}.")
    failed = verify(bundle, run).failed
    if failed:
        raise PackError(
            f"{bundle.name} is not in order: " + "; ".join(f"{point.name}: {point.detail}" for point in failed)
        )
    sent = [path for path in files_of(bundle) if path.name not in NOT_SENT]
    lines = [f"{path.stat().st_size:>10}  {path.relative_to(bundle).as_posix()}" for path in sent]
    lines.append(
        f"{(bundle / 'docs' / 'README.md').stat().st_size:>10}  README.md (docs/README.md with the hub's header)"
    )
    if not dry_run:
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / bundle.name
            for path in sent:
                (copy / path.relative_to(bundle)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy / path.relative_to(bundle))
            _push(copy, repo, private)
    return lines


def _push(bundle: Path, repo: str, private: bool) -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise PackError(f"expected the packages of the extra 'hub', received {error}. pip install '.[hub]'.") from None
    version = metadata_of(bundle)["version"]
    monai.bundle.push_to_hf_hub(
        repo=repo, name=bundle.name, bundle_dir=str(bundle.parent), private=private, version=version,
        commit_message=f"{bundle.name} {version}",
    )  # fmt: skip
