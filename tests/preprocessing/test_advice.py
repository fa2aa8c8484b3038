import dataclasses
import re

import pytest

from preprocessing.advice import label_advice
from preprocessing.split import Split


def split(patients, cases_each=2):
    names = {f"{patient}_{case}": str(patient) for patient in range(patients) for case in range(cases_each)}
    return Split(labeled=tuple(names), unlabeled=("u",), test=(), folds=(), groups={**names, "u": "u"})


@pytest.mark.parametrize(
    ("patients", "words"),
    [(1, "no cross-validation is possible"), (3, r"one patient at a time \(3 trainings\)"), (9, "one or two")],
)
def test_few_labelled_patients_get_advice(patients, words):
    assert re.search(words, " ".join(label_advice(split(patients))))
    assert "suggest RUN" in label_advice(split(patients))[-1]


def test_ten_patients_get_none():
    assert label_advice(split(10)) == ()
    assert label_advice(split(0)) == ()


def test_nothing_is_suggested_where_nothing_is_unlabelled():
    assert "suggest" not in " ".join(label_advice(dataclasses.replace(split(3), unlabeled=())))
