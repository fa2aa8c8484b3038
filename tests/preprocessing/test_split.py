"""Laws of a split: patients stay whole, budgets are nested, the test part does not depend on the budget."""

from itertools import pairwise
from pathlib import Path

import pytest

from mcsc_bundle.plan import load_json, save_json
from preprocessing.dataset import Case, Dataset, DatasetError
from preprocessing.split import Split, make_split, training_cases


def dataset(patients=10, frames=2, unlabeled=("p03_x", "new_x")):
    """``frames`` labelled cases of each patient and some that never had a label (``p03_x`` is of patient ``p03``)."""
    labeled = [f"p{patient:02}_{frame}" for patient in range(patients) for frame in range(frames)]
    cases = [Case(name, (Path(name),), Path(name), name[:3]) for name in labeled]
    cases += [Case(name, (Path(name),), None, name.split("_")[0]) for name in unlabeled]
    return Dataset("Tiny", Path("tiny"), ("MRI",), {"background": 0, "a": 1}, tuple(cases))


def patients(names):
    return {name.split("_")[0] for name in names}


def split_file(tmp_path, content):
    if isinstance(content, str):
        path = tmp_path / "train.list"
        path.write_text(content)
    else:
        path = tmp_path / "split.json"
        save_json(path, content)
    return path


def test_without_a_budget_every_label_trains():
    split = make_split(dataset())
    assert len(split.labeled) == 20 and split.unlabeled == ("p03_x", "new_x") and split.test == ()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [1, 2, 3, 8, 16])
def test_no_patient_is_in_training_and_test(seed, budget):
    split = make_split(dataset(), budget, split_seed=seed)
    assert not patients(split.test) & patients((*split.labeled, *split.unlabeled))
    assert len(split.labeled) == budget and len(split.test) == 4  # a fifth of 20


def test_every_case_plays_one_part():
    split = make_split(dataset(), 3, split_seed=1)
    parts = (*split.labeled, *split.unlabeled, *split.test, *split.left_out)
    assert sorted(parts) == sorted(case.name for case in dataset().cases)


@pytest.mark.parametrize("seed", range(5))
def test_budgets_are_nested_and_share_the_test_part(seed):
    splits = [make_split(dataset(), budget, split_seed=seed) for budget in range(1, 17)]
    assert {split.test for split in splits} == {splits[0].test}
    for smaller, larger in pairwise(splits):
        assert set(smaller.labeled) < set(larger.labeled)


def test_labelled_cases_do_not_depend_on_the_size_of_the_test_part():
    splits = [make_split(dataset(), 4, num_test=number) for number in (0, 2, 8)]
    assert len({split.labeled for split in splits}) == 1


def test_hidden_frames_of_a_labelled_patient_are_left_out():
    split = make_split(dataset(frames=3), 4, split_seed=2)
    cut = patients(split.labeled[3:])
    assert len(patients(split.left_out)) >= 1 and cut <= patients(split.left_out)
    assert not patients(split.unlabeled) & patients(name for name in split.labeled if not name.startswith("p03"))


def test_seed_decides():
    one, again, other = (make_split(dataset(), 4, split_seed=seed) for seed in (0, 0, 1))
    assert one == again and one.labeled != other.labeled


def test_num_test_takes_whole_patients():
    split = make_split(dataset(frames=3), num_test=4)
    assert len(split.test) == 6 and len(split.labeled) == 24
    assert make_split(dataset(), 5, num_test=0).test == ()


def test_default_test_part_stops_at_forty():
    assert len(make_split(dataset(patients=99, frames=5), 2).test) == 40


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_folds_part_the_labelled_cases_by_patient(count):
    split = make_split(dataset(patients=count))
    assert len(split.folds) == min(5, count)
    assert sorted(name for fold in split.folds for name in fold.val) == sorted(split.labeled)
    for fold in split.folds:
        assert not patients(fold.train) & patients(fold.val)
        assert sorted((*fold.train, *fold.val)) == sorted(split.labeled)


def test_one_patient_has_no_folds():
    assert make_split(dataset(patients=1)).folds == ()


def test_saved_split_reads_back(tmp_path):
    split = make_split(dataset(), 4)
    save_json(tmp_path / "splits.json", split)
    assert load_json(tmp_path / "splits.json", Split) == split


def test_validating_fold_takes_its_patients_out_of_the_unlabelled_cases():
    split = make_split(dataset())
    number = next(number for number, fold in enumerate(split.folds) if "p03_0" in fold.val)
    labeled, unlabeled, val = training_cases(split, number)
    assert "p03_0" not in labeled and unlabeled == ("new_x",) and "p03_1" in val


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"num_labeled": 12}, "all"), ({"num_labeled": 8, "num_test": 0}, "all"), ({}, 0)],
)
def test_auto_fold_spares_a_fold_only_where_labels_are_many_and_no_test_part(arguments, expected, caplog):
    split = make_split(dataset(), **arguments)
    caplog.set_level("INFO")
    assert training_cases(split, "auto") == training_cases(split, expected)
    assert f"Fold {expected}: " in caplog.text


def test_auto_fold_is_the_one_that_the_run_was_trained_with():
    split = make_split(dataset())
    for number in (0, 3):
        trained = split.folds[number].train
        assert training_cases(split, "auto", trained) == training_cases(split, number)
        assert training_cases(split, "auto", trained[:-1], trained[-1:]) == training_cases(split, number)
        assert training_cases(split, "auto", trained[:-1]) == training_cases(split, number)  # it is usable by now
        few = make_split(dataset(), num_labeled=4, num_test=0).labeled
        assert training_cases(split, "auto", few) == training_cases(split, "auto")  # of another split
        watched = next(fold.val[0] for index, fold in enumerate(split.folds) if index != number)
        assert training_cases(split, "auto", set(trained) - {watched}, {watched}) == training_cases(split, number)
    assert training_cases(split, "auto", split.labeled) == training_cases(split, "all")
    assert training_cases(split, "auto", ("other",)) == training_cases(
        split, "auto"
    )  # of another split: it is refused later
    assert training_cases(split, 1, split.folds[0].train) == training_cases(
        split, 1
    )  # as asked for; a checkpoint refuses


def test_no_fold_watches_the_test_part():
    split = make_split(dataset(), 4)
    assert split.test
    assert training_cases(split, "all") == training_cases(split) == (split.labeled, split.unlabeled, ())
    assert not {*split.test} & {name for part in training_cases(split, 0) for name in part}


@pytest.mark.parametrize("fold", [5, -1, "first"])
def test_a_fold_that_is_not_there_is_refused(fold):
    with pytest.raises(DatasetError, match="one of auto, all, 0, 1, 2, 3, 4"):
        training_cases(make_split(dataset()), fold)


def test_list_file_names_the_labelled_cases_in_order(tmp_path):
    path = split_file(tmp_path, "p05_1\np00_0.nii.gz\n\n# comment\np00_1\n")
    split = make_split(dataset(), split_file=path)
    assert split.labeled == ("p05_1", "p00_0", "p00_1") and split.test == ()
    assert split.left_out == ("p05_0",) and len(split.unlabeled) == 16 + 2


def test_budget_takes_the_first_of_a_list_file(tmp_path):
    path = split_file(tmp_path, "p05_1\np05_0\np00_0\n")
    split = make_split(dataset(), num_labeled=2, split_file=path)
    assert split.labeled == ("p05_1", "p05_0") and "p00_0" in split.unlabeled


def test_json_file_names_the_parts(tmp_path):
    parts = {"labeled": ["p00_0"], "unlabelled": ["p01_0"], "test": ["p02_0", "p02_1"]}
    split = make_split(dataset(), split_file=split_file(tmp_path, parts))
    assert (split.labeled, split.unlabeled, split.test) == (("p00_0",), ("p01_0",), ("p02_0", "p02_1"))


def test_json_file_may_name_the_test_part_alone(tmp_path):
    split = make_split(dataset(), split_file=split_file(tmp_path, {"test": ["p03_0"]}))
    assert len(split.labeled) == 18 and split.unlabeled == ("new_x",) and split.left_out == ("p03_1", "p03_x")


def test_a_split_that_was_saved_can_be_used_again(tmp_path):
    split = make_split(dataset(), 4, split_seed=3)
    save_json(tmp_path / "splits.json", split)
    again = make_split(dataset(), split_file=tmp_path / "splits.json")
    assert (again.labeled, again.unlabeled, again.test) == (split.labeled, split.unlabeled, split.test)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("p00_0\np99_0\n", "labeled case 'p99_0' is not in the data set; did you mean"),
        ("p00_0\np00_0\n", "each case once, received 'p00_0' again"),
        ("new_x\n", "'new_x' has no label"),
        ({"labeled": ["p00_0"], "test": ["p00_1"]}, "each patient either in training or in test, received p00"),
        ({"labeled": ["p00_0"], "unlabeled": ["p01_0"], "test": ["p01_1"]}, "received p01 in both"),
        ({"train": ["p00_0"]}, "expected lists of case names"),
        ([{"train": ["p00_0"], "val": []}], "expected lists of case names"),
    ],
)
def test_a_mistake_in_a_split_file_is_named(tmp_path, content, message):
    with pytest.raises(DatasetError, match=message):
        make_split(dataset(), split_file=split_file(tmp_path, content))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_labeled": 17}, "at least 17 labelled cases.*received 16 beside 4"),
        ({"num_labeled": 0}, "num_labeled to be 1 or more"),
        ({"num_test": -1}, "num_test to be 0 or more"),
        ({"num_test": 20}, "at least 1 labelled cases"),
        ({"num_test": 1, "split_file": "missing.list"}, "either num_test or split_file"),
        ({"split_file": "missing.list"}, r"readable text or JSON file, received missing\.list"),
    ],
)
def test_an_impossible_request_is_refused(arguments, message):
    with pytest.raises(DatasetError, match=message):
        make_split(dataset(), **arguments)
