"""The demo set: deterministic, well formed, anatomical, and out of reach of thresholds."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.ndimage import label as components

from preprocessing.dataset import read_dataset
from preprocessing.phantom import LABELED_KINDS, make_case, make_phantom_dataset
from preprocessing.phantom_anatomy import KINDS, LV, MYO, RV, draw_heart, labels
from preprocessing.phantom_scanner import store_flipped

COUNTS = {"labeled": 4, "unlabeled": 1, "test": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_phantom_dataset(tmp_path_factory.mktemp("set"), **COUNTS)


@pytest.fixture(scope="module")
def labelled(folder):
    """Image and label map of every case that has one."""
    files = sorted(folder.glob("labels*/*.nii.gz"))
    images = [folder / file.parent.name.replace("labels", "images") / file.name for file in files]
    return [(nib.load(image), nib.load(label)) for image, label in zip(images, files, strict=True)]


def test_same_seed_same_bytes_whenever_it_is_made(tmp_path, monkeypatch):
    counts = {"labeled": 1, "unlabeled": 0, "test": 1}
    one = make_phantom_dataset(tmp_path / "one", **counts)
    monkeypatch.setattr("time.time", lambda: 1.0e9)
    two = make_phantom_dataset(tmp_path / "two", **counts)
    names = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file()]
    assert len(names) == 5
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_the_set_with_every_label_has_the_same_images(tmp_path):
    few, every = (
        make_phantom_dataset(tmp_path / str(all_), labeled=1, unlabeled=1, test=0, label_all=all_)
        for all_ in (False, True)
    )
    for path in sorted(few.glob("images*/*")):
        assert path.read_bytes() == (every / path.relative_to(few)).read_bytes()
    assert [len(list(folder.glob("labelsTr/*"))) for folder in (few, every)] == [1, 2]


def test_another_seed_is_another_heart():
    one, two = (np.asarray(make_case(seed, 0, True)[0].dataobj) for seed in (0, 1))
    assert one.shape != two.shape or not np.array_equal(one, two)


def test_the_project_reads_it_and_never_sees_the_test_cases(folder):
    dataset = read_dataset(folder)
    assert [case.name for case in dataset.cases] == [f"heart_{n:03d}" for n in range(1, 6)]
    assert [case.label is not None for case in dataset.cases] == [True] * 4 + [False]
    assert dict(dataset.labels) == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    assert {path.name for path in (folder / "labelsTr").iterdir()} == {f"heart_{n:03d}.nii.gz" for n in range(1, 5)}
    assert {path.name for path in (folder / "labelsTs").iterdir()} == {f"heart_{n:03d}.nii.gz" for n in range(6, 9)}


def _killed_at_the_third(seed, number, is_labeled):
    if number == 2:
        raise KeyboardInterrupt
    return make_case(seed, number, is_labeled)


def test_a_set_that_was_cut_off_has_no_dataset_json_and_is_made_again(tmp_path, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("preprocessing.phantom.make_case", _killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            make_phantom_dataset(tmp_path, **COUNTS)
    assert not (tmp_path / "dataset.json").exists()
    make_phantom_dataset(tmp_path, **COUNTS)
    assert json.loads((tmp_path / "dataset.json").read_text()) == json.loads((folder / "dataset.json").read_text())


def test_images_are_int16_and_share_the_grid_of_their_labels(labelled):
    for image, label in labelled:
        assert image.get_data_dtype() == np.int16 and np.asarray(image.dataobj).min() >= 0
        assert image.shape == label.shape and np.array_equal(image.affine, label.affine)
        assert set(np.unique(label.dataobj)) == {0, RV, MYO, LV}


def test_affines_are_oblique_rotations_in_mm(labelled):
    for image, _ in labelled:
        directions = image.affine[:3, :3] / image.header.get_zooms()
        assert np.allclose(directions.T @ directions, np.eye(3), atol=1e-5)
        assert np.abs(directions).max() < 0.999
        assert 1.6 <= image.header.get_zooms()[0] <= 2.2
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-4)


def test_flipped_storage_moves_no_voxel_in_space():
    array, affine = np.zeros((4, 5, 6)), np.diag((2.0, 3.0, 8.0, 1.0))
    array[1, 2, 3] = 1
    flipped, there = store_flipped(array, affine)
    assert flipped[2, 2, 2] == 1
    assert np.array_equal(there @ [2, 2, 2, 1], affine @ [1, 2, 3, 1])


def test_two_scanners_of_which_one_stores_its_axes_flipped(labelled):
    found = {(float(image.header.get_zooms()[2]), bool(np.linalg.det(image.affine) > 0)) for image, _ in labelled}
    assert found == {(8.0, True), (10.0, False)}


def test_the_muscle_surrounds_the_left_cavity(labelled):
    for _, image in labelled:
        label = np.asarray(image.dataobj)
        touched = binary_dilation(label == LV, np.ones((3, 3, 1))) & (label != LV)
        assert (label[touched] == MYO).all()


def test_the_heart_is_one_piece_and_its_right_ventricle_leaves_no_crumbs(labelled):
    for _, image in labelled:
        label = np.asarray(image.dataobj)
        assert components(label > 0, np.ones((3, 3, 3)))[1] == 1
        sizes = np.bincount(components(label == RV, np.ones((3, 3, 3)))[0].ravel())[1:]
        assert sizes.max() >= 0.99 * sizes.sum()


def _volume_ml(kind, systole, value=LV):
    heart = draw_heart(np.random.default_rng(0), kind, systole)
    x, y, z = np.ogrid[-90:90:2.0, -90:90:2.0, 1:90:4.0]
    return (labels(heart, x, y, z) == value).sum() * 16 / 1000


def test_the_heart_beats():
    assert 0.4 < 1 - _volume_ml("healthy", True) / _volume_ml("healthy", False) < 0.7  # ejection fraction
    assert _volume_ml("healthy", True, MYO) == pytest.approx(_volume_ml("healthy", False, MYO), rel=0.2)  # muscle stays


def test_disease_shows():
    cavity, muscle, right = ({kind: _volume_ml(kind, False, value) for kind in KINDS} for value in (LV, MYO, RV))
    assert cavity["hypertrophic"] < 0.8 * cavity["healthy"] and cavity["dilated"] > 1.25 * cavity["healthy"]
    assert muscle["hypertrophic"] > 1.25 * muscle["healthy"] and right["right_dilated"] > 1.25 * right["healthy"]


def test_labelled_cases_never_show_one_of_the_diseases():
    assert set(KINDS) - set(LABELED_KINDS) == {"right_dilated"}


def _dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def _best_window(image, truth):
    """Best Dice of any intensity window, with or without keeping the largest component, fitted on the truth itself."""
    edges = np.percentile(image[truth], np.linspace(0, 100, 12))
    scores = []
    for low, high in ((a, b) for i, a in enumerate(edges) for b in edges[i + 1 :]):
        found = (image >= low) & (image <= high)
        parts, _ = components(found)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        scores += [_dice(found, truth), _dice(parts == sizes.argmax(), truth)]
    return max(scores)


def test_a_window_finds_what_intensity_alone_can_find():
    image = np.zeros((8, 8, 4))
    image[2:5, 2:5, 1:3] = 100 + np.arange(18).reshape(3, 3, 2)
    assert _best_window(image, image > 0) == 1


def test_thresholds_fail_even_when_fitted_on_the_truth(labelled):
    scores = []
    for image, label in labelled:
        intensities, truth = np.asarray(image.dataobj), np.asarray(label.dataobj)
        scores.append(np.mean([_best_window(intensities, truth == value) for value in (RV, MYO, LV)]))
    assert np.mean(scores) < 0.65 and max(scores) < 0.8  # the demo asks a network for 0.8 in every class
