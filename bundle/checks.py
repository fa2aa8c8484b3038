"""What can be seen of a bundle without running any of its code, point by point.

Each check takes the bundle's folder and returns what it saw in one line, or raises ``PackError`` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bundle.checks_of_content import check_code, check_keys, check_schema, check_targets, check_truth
from bundle.checks_of_files import (
    check_checksums,
    check_files,
    check_licences,
    check_no_pickle,
    check_paths,
    check_sizes,
)

STATIC: dict[str, Callable[[Path], str]] = {
    "files": check_files,
    "no pickles": check_no_pickle,
    "checksums": check_checksums,
    "schema": check_schema,
    "metadata is true": check_truth,
    "code": check_code,
    "keys": check_keys,
    "targets": check_targets,
    "paths": check_paths,
    "sizes": check_sizes,
    "licences": check_licences,
}
