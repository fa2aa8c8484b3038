"""Which of nnU-Net's configurations a plan is for: slices, volumes, or volumes seen whole at a coarser spacing.

nnU-Net plans all that make sense, trains each on five folds and takes the best (``default_experiment_planner.py``:
``plan_experiment``). That is there too, ``python -m mcsc_bundle cross_validate`` on runs of two configurations; but a
first run has to begin with one, which ``auto`` picks from geometry and labels. The cascade (``mcsc_bundle.cascade``) is
never picked: it needs a cross-validation of 3d_lowres first.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcsc_bundle.plan import Fingerprint, Plan, PlanError
from mcsc_bundle.plan_parts import CASCADE, CONFIGURATIONS, LOWRES
from preprocessing.geometry import ANISOTROPY_RATIO, Geometry
from preprocessing.sizing import LOWRES_BELOW, LOWRES_GAIN, LowRes

SEES_TOO_LITTLE = 0.05
FEW_LABELS = 10
"""``auto`` takes 3d_lowres where a patch covers less of the median image than this and so few cases are labelled: where in
the body a patch lies then decides its classes, and few labels do not show every place. A rule of ours, not measured yet."""


def choose_dimensions(fingerprint: Fingerprint, geometry: Geometry, configuration: str) -> tuple[int, int | None, str]:
    """Dimensions of the networks, the axis sliced along if any, and why.

    Raises:
        PlanError: 3-D networks were asked for images without a third dimension.
    """
    if fingerprint.image_dims == 2:
        _refuse_volumes(
            fingerprint, configuration, "2-D images", "Stack them to volumes if they are slices of one scan."
        )
        return 2, None, "The images are 2-D."
    flat = [axis for axis in geometry.order if geometry.median_shape[axis] <= 1]
    slice_axis = flat[0] if flat else geometry.coarse_axis
    if geometry.median_shape[geometry.coarse_axis] <= 1:
        of = f"volumes of a single slice (median shape {geometry.median_shape})"
        _refuse_volumes(fingerprint, configuration, of, "There is no third dimension to see.")
    ratio, limit = geometry.anisotropy, ANISOTROPY_RATIO
    measured = (
        f"target spacing on axis {geometry.coarse_axis} is {ratio:.3g} times that of any other"
        if ratio > 1
        else "target spacing is largest on two axes or more"
    )
    if configuration != "auto":
        asked_2d = configuration == "2d"
        return 2 if asked_2d else 3, slice_axis if asked_2d else None, f"{configuration} was asked for; the {measured}."
    if flat:
        return 2, slice_axis, f"The volumes are a single slice along axis {slice_axis}."
    if ratio > limit:
        return (
            2,
            slice_axis,
            (
                f"The {measured}, above nnU-Net's anisotropy threshold of {limit:g}: neighbouring slices show too "
                f"different anatomy for 3-D convolutions to join, so the networks work slice by slice."
            ),
        )
    return (
        3,
        None,
        f"The {measured}, within nnU-Net's anisotropy threshold of {limit:g}: 3-D context is worth its cost.",
    )


def choose_resolution(
    fingerprint: Fingerprint, configuration: str, patch_share: float, lowres: LowRes | None
) -> tuple[str, str]:
    """``3d_fullres`` (of a cascade, too) or ``3d_lowres``, and why.

    Args:
        configuration: what was asked for.
        patch_share: share of the median image that the patch at full resolution covers.
        lowres: what 3d_lowres would be, if the data call for it.

    Raises:
        PlanError: 3d_lowres, or a cascade after it, was asked for and the data do not call for it.
    """
    covers = f"At full resolution the patch covers {patch_share:.0%} of the median image"
    if lowres is None:
        if configuration in (LOWRES, CASCADE):
            raise PlanError(
                f"Planning {fingerprint.dataset_name}: expected configuration to be 3d_fullres, 2d or auto, received "
                f"{configuration!r}. {covers}; a coarser grid is planned below {LOWRES_BELOW:.0%}, if it then has at most "
                f"1/{LOWRES_GAIN:g} of the voxels."
            )
        return "3d_fullres", f"{covers}, so that there is no 3d_lowres. The other configuration would be 2d."
    if configuration != "auto":
        chosen, other = (LOWRES, "3d_fullres") if configuration == LOWRES else ("3d_fullres", LOWRES)
        return chosen, f"Asked for. {covers}; there are 2d and {other}, too."
    labels = len(fingerprint.labeled)
    if patch_share < SEES_TOO_LITTLE and labels < FEW_LABELS:
        return LOWRES, (
            f"{covers}, and {labels} labelled cases are too few to show each place in the body: a coarser grid shows where a "
            f"patch lies. There are 2d and 3d_fullres, too; cross-validate to compare."
        )
    return "3d_fullres", f"{covers}. There are 2d and 3d_lowres, too; cross-validate to compare."


def as_cascade(fullres: Plan) -> Plan:
    """The second stage: as 3d_fullres (nnU-Net: ``inherits_from``), with the mask of 3d_lowres beside the image."""
    why = (
        "Asked for. At full resolution a patch sees a part of the body; the mask that 3d_lowres made of all of it shows which, "
        f"as {fullres.num_classes - 1} further input channels. The rest is planned as for 3d_fullres."
    )
    reasons = {**fullres.why, "configuration": why, "previous_stage": "What nnU-Net refines in its cascade."}
    return fullres.replace(configuration=CASCADE, previous_stage=LOWRES, why=reasons)


def slices_only(fingerprint: Fingerprint, asked: bool) -> str:
    """Why the configuration is 2d."""
    if fingerprint.image_dims == 2:
        return "The only one for 2-D images."
    return "Asked for." if asked else "Picked for the spacing; 3d_fullres can be asked for where slices are many."


def check_configuration(fingerprint: Fingerprint, configuration: str) -> None:
    """Refuse what is no configuration.

    Raises:
        PlanError: names those there are.
    """
    if configuration not in ("auto", *CONFIGURATIONS, CASCADE):
        known = ", ".join((*CONFIGURATIONS, CASCADE))
        raise PlanError(
            f"Planning {fingerprint.dataset_name}: expected configuration to be auto, {known}, received "
            f"{configuration!r}."
        )


def _refuse_volumes(fingerprint: Fingerprint, configuration: str, of: str, remedy: str) -> None:
    if configuration.startswith("3d"):
        raise PlanError(
            f"Planning {fingerprint.dataset_name}: expected configuration to be 2d or auto for {of}, received "
            f"{configuration!r}. {remedy}"
        )


def in_image_order(axes: Sequence[int], values: Sequence[float]) -> tuple[float, ...]:
    """Values in the order of the network's ``axes``, brought to the order of the image's."""
    return tuple(values[index] for index in sorted(range(len(axes)), key=lambda index: axes[index]))
