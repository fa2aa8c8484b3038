"""Command line of the stages before training.

python -m preprocessing DATASET --output_dir RUN [--num_labeled N ...]   measure, plan and preprocess a data set
python -m preprocessing show RUN                                         the plan with its reasons
python -m preprocessing plan --fingerprint dataset_fingerprint.json --dataset_json dataset.json --networks cnn \
    --memory_gb 8 --output plan.json                                     nnU-Net's plan from its fingerprint, no image
python -m preprocessing plan --nnunet_plans nnUNetPlans.json --dataset_json dataset.json \
    [--configuration 3d_fullres] --output plan.json                      nnU-Net's plan as it stands
python -m preprocessing check DATASET_OR_RUN                             read every case; what is wrong with which
python -m preprocessing clean RUN [--dry_run]                            free stored cases that no plan uses any more
python -m preprocessing export DATASET OUTPUT --dataset_id 501           in nnU-Net's folder layout
"""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path

import fire

from mcsc_bundle.interrupt import stops_with
from preprocessing.parallel import allow_fork

UNUSED = ("pandas", "matplotlib", "sklearn", "ignite", "scipy.signal")
"""Optional packages that MONAI imports where it finds them, for parts that nothing here uses: a third of the start."""

VERBS = ("run", "show", "plan", "check", "clean", "export")


def main(arguments: list[str]) -> None:
    """Dispatch; without a verb the first argument is the data set."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # of blosc2; tells how many threads it takes
    if arguments and arguments[0] not in VERBS and not arguments[0].startswith("-"):
        if not Path(arguments[0]).exists():
            raise SystemExit(
                f"error: expected the folder of a data set or one of the commands {', '.join(VERBS)}, received "
                f"{arguments[0]!r}, which is neither."
            )
        arguments = ["run", *arguments]
    with stops_with("Stopped; the same command goes on with the cases that are left."):
        _call(arguments)


def _call(arguments: list[str]) -> None:
    gc.disable()  # the imports make a million objects and no garbage
    from mcsc_bundle.flags import check_flags_or_exit
    from preprocessing import verbs
    from preprocessing.prepare import USER_ERRORS

    gc.freeze()  # nor is there any use in looking at them again, which in a forked worker would copy them
    gc.enable()
    commands = {verb: getattr(verbs, verb) for verb in VERBS}
    check_flags_or_exit(arguments, commands)
    try:
        fire.Fire(commands, command=arguments, name="python -m preprocessing")
    except USER_ERRORS as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    sys.modules.update(dict.fromkeys(UNUSED))  # type: ignore[arg-type]  # None: as if not installed
    allow_fork()  # nothing has been computed yet
    main(sys.argv[1:])
