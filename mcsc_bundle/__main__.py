"""``python -m mcsc_bundle suggest RUN``: which unlabelled scans are most worth labelling next."""

from __future__ import annotations

import fire

from mcsc_bundle.suggest import suggest

if __name__ == "__main__":
    fire.Fire({"suggest": suggest})
