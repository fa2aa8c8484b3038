"""The unit test that the model zoo wants beside a bundle, written for it: ``ci/unit_tests/test_NAME.py``."""

from __future__ import annotations

import os
from pathlib import Path

TEMPLATE = Path(__file__).with_name("zoo_test_template.py")
NAME_LINE = 'NAME = "bundle_name"'


def write_zoo_test(folder: Path, name: str) -> Path:
    """Write ``test_NAME.py``, beside its place first and renamed.

    Args:
        folder: where the zip of the bundle lies.
        name: of the bundle.
    """
    path = folder / f"test_{name}.py"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(TEMPLATE.read_text(encoding="utf-8").replace(NAME_LINE, f'NAME = "{name}"'), encoding="utf-8")
    os.replace(temporary, path)
    return path
