"""Commands around a training.

python -m mcsc_bundle suggest RUN                  # which unlabelled scans are most worth labelling next
python -m mcsc_bundle cross_validate DATA RUNS     # train all folds, score what each left out, decide the post-processing
python -m mcsc_bundle choose RUNS                  # the best of several cross-validated configurations, or pair of them
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import fire

from mcsc_bundle.choose import choose
from mcsc_bundle.cross_validation import cross_validate
from mcsc_bundle.files import DiskError
from mcsc_bundle.flags import check_flags_or_exit
from mcsc_bundle.interrupt import stops_with
from mcsc_bundle.plan import PlanError
from mcsc_bundle.suggest import suggest

COMMANDS: dict[str, Callable[..., Any]] = {"suggest": suggest, "cross_validate": cross_validate, "choose": choose}

if __name__ == "__main__":
    check_flags_or_exit(sys.argv[1:], COMMANDS)
    with stops_with("Stopped; the same command goes on."):
        try:
            fire.Fire(COMMANDS, name="python -m mcsc_bundle")
        except (DiskError, PlanError) as error:
            raise SystemExit(f"error: {error}") from None
