"""What a number of labelled patients can tell, and what to do about it: advice below ten of them."""

from __future__ import annotations

from preprocessing.split import MIN_GROUPS_TO_VALIDATE, Split

FEW = 10
LABEL_NEXT = (
    "After a training, python -m mcsc_bundle suggest RUN ranks the unlabelled scans by what their labels would add."
)


def label_advice(split: Split) -> tuple[str, ...]:
    """Sentences on validation with few labelled patients; none with ten or more.

    The bounds are ours: below five patients, five folds would be empty or part a patient; below ten, a fold's score is that of
    one patient.
    """
    patients = len({split.groups.get(name, name) for name in split.labeled})
    if patients >= FEW or not split.labeled:
        return ()
    label_next = (LABEL_NEXT,) if split.unlabeled else ()
    if patients == 1:
        return (
            "One labelled patient: nobody is left to validate on, and no cross-validation is possible. The network trains on "
            "every label, and no score says how good it is: look at its masks, and label a second scan.",
            *label_next,
        )
    if patients < MIN_GROUPS_TO_VALIDATE:
        return (
            f"{patients} labelled patients: five folds make no sense. Cross-validation leaves out one patient at a time "
            f"({patients} trainings); a single training takes every label and validates on none. A mean over {patients} patients "
            "is rough: one that fails moves it a lot.",
            *label_next,
        )
    return (
        f"{patients} labelled patients: a fold holds one or two, so read the scores of all folds together, and their spread.",
        *label_next,
    )
