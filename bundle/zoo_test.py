"""The unit test that the model zoo wants beside a bundle, written for it: ``ci/unit_tests/test_NAME.py``."""

from __future__ import annotations

from pathlib import Path

from mcsc_bundle.files import save_text

TEMPLATE = Path(__file__).with_name("zoo_test_template.py")
NAME_LINE = 'NAME = "bundle_name"'


def write_zoo_test(folder: Path, name: str) -> Path:
    """Write ``test_NAME.py``.

    Args:
        folder: where the zip of the bundle lies.
        name: of the bundle.
    """
    path = folder / f"test_{name}.py"
    save_text(path, TEMPLATE.read_text(encoding="utf-8").replace(NAME_LINE, f'NAME = "{name}"'))
    return path
