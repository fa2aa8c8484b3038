from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import allow_missing_keys_mode

from mcsc_bundle.io import load_image, load_label
from mcsc_bundle.labels import STORED_IGNORED
from mcsc_bundle.outputs import outputs_of
from mcsc_bundle.plan import ChannelNormalization
from mcsc_bundle.transforms import preprocessing, reason, restore_mask, restore_probabilities
from tests.mcsc_bundle.images import blobs, make_affine, save, save_pair
from tests.plans import make_plan

GRIDS = {
    "plain": make_affine(),
    "flipped": make_affine("LPS"),
    "permuted": make_affine("PSR"),
    "oblique": make_affine("LPS", degrees=18),
}


def one_hot(classes, count=3):
    """Logits that a perfect network would give."""
    return torch.nn.functional.one_hot(torch.as_tensor(classes).long(), count).movedim(-1, 0).float()


def dice(one, other):
    return min(2 * ((one == c) & (other == c)).sum() / ((one == c).sum() + (other == c).sum()) for c in (1, 2))


def there_and_back(item, plan):
    chain = preprocessing(plan)
    ready = chain(item)
    return ready, restore_mask(one_hot(ready["label"][0]), ready["image"], chain, plan)


@pytest.mark.parametrize("grid", GRIDS)
def test_mask_comes_back_exactly_where_the_spacing_is_the_plans(tmp_path, grid):
    item = save_pair(tmp_path, "a", affine=GRIDS[grid])
    mask = there_and_back(item, make_plan("3d"))[1]
    np.testing.assert_array_equal(mask, load_label(item["label"]))
    np.testing.assert_allclose(mask.affine, load_image(item["image"]).affine, atol=1e-5)


@pytest.mark.parametrize("kind", ["3d", "slicewise", "anisotropic"])
@pytest.mark.parametrize("codes, degrees", [("RAS", 0), ("LPS", 18), ("PSR", 0)])
def test_mask_comes_back_nearly_where_it_is_resampled(tmp_path, kind, codes, degrees):
    item = save_pair(tmp_path, "a", (40, 44, 24), make_affine(codes, (0.8, 0.7, 1.6), degrees))
    plan = make_plan(kind, **({"spacing_mm": (2.0, 1.0, 1.0)} if kind == "anisotropic" else {}))
    ready, mask = there_and_back(item, plan)
    given = load_image(item["image"])
    assert mask.shape == given.shape and ready["image"].shape == ready["label"].shape
    np.testing.assert_allclose(mask.affine, given.affine, atol=1e-5)
    assert dice(mask, load_label(item["label"])) > 0.9


def test_near_45_degrees_image_and_label_turn_alike(tmp_path):
    """Headers that differ in rounding alone have other nearest axes there."""
    item = save_pair(tmp_path, "a", (14, 20, 16), make_affine(degrees=45 - 1e-5))
    save(blobs((14, 20, 16)), tmp_path / "a_label.nii.gz", make_affine(degrees=45 + 1e-5))
    ready = preprocessing(make_plan("3d"))(item)
    assert ready["image"].shape == ready["label"].shape
    inside = ready["label"] > 0
    assert float(ready["image"][inside].min()) > float(ready["image"][~inside].max()) - 0.5


def test_axes_and_spacing_are_the_plans(tmp_path):
    item = save_pair(tmp_path, "a", (20, 30, 10), make_affine("PSR", (0.5, 2.0, 1.0)))
    image = preprocessing(make_plan("3d"))(item)["image"]
    assert nib.aff2axcodes(image.affine.numpy()) == ("R", "A", "S")
    assert image.shape == (1, 10, 10, 60)  # 10 x 1.0, 20 x 0.5, 30 x 2.0 mm
    np.testing.assert_allclose(image.pixdim, (1, 1, 1), rtol=1e-6)


def test_a_slicewise_plan_keeps_the_slices(tmp_path):
    item = save_pair(tmp_path, "a", (20, 22, 7), make_affine(spacing=(0.5, 0.5, 9.0)))
    assert preprocessing(make_plan("slicewise"))(item)["image"].shape == (1, 10, 11, 7)


def test_crop_is_undone(tmp_path):
    array = np.zeros((16, 16, 16), np.float32)
    array[4:10, 2:9, 5:15] = 1 + np.random.default_rng(0).random((6, 7, 10))
    chain, plan = preprocessing(make_plan("3d"), "image"), make_plan("3d")
    image = chain({"image": save(array, tmp_path / "a.nii.gz", make_affine("LPS"))})["image"]
    assert image.shape == (1, 6, 7, 10)
    logits = torch.stack([torch.zeros(6, 7, 10), torch.ones(6, 7, 10), torch.zeros(6, 7, 10)])
    np.testing.assert_array_equal(restore_mask(logits, image, chain, plan)[0], array > 0)


def test_probabilities_agree_with_the_mask_and_sum_to_one(tmp_path):
    item, plan = save_pair(tmp_path, "a", affine=make_affine("LPS", (0.7, 1.0, 1.5))), make_plan("3d")
    chain = preprocessing(plan)
    ready = chain(item)
    logits = torch.randn(3, *ready["image"].shape[1:], generator=torch.Generator().manual_seed(0))
    shares = restore_probabilities(logits, ready["image"], chain, plan)
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    agree = shares.argmax(0) == restore_mask(logits, ready["image"], chain, plan)[0].long()
    assert agree.float().mean() > 0.9999


def test_inverse_by_monai_equals_restore_mask(tmp_path):
    item, plan = save_pair(tmp_path, "a", affine=make_affine("LPS", (0.7, 1.0, 1.5), 10)), make_plan("3d")
    chain = preprocessing(plan)
    ready = chain(item)
    with allow_missing_keys_mode(chain):
        inverted = chain.inverse({"label": ready["label"].clone()})["label"]
    assert inverted.shape == load_label(item["label"]).shape
    assert dice(inverted, load_label(item["label"])) > 0.9


def test_label_values_are_the_declared_ones(tmp_path):
    plan = make_plan("3d", labels={"background": 0, "liver": 300, "lesion": 7})
    item = save_pair(tmp_path, "a")
    item["label"] = str(save(np.array([0, 300, 7], np.int16)[blobs((20, 22, 12))], tmp_path / "l.nii.gz"))
    ready, mask = there_and_back(item, plan)
    assert set(np.unique(ready["label"])) == {0, 1, 2}
    np.testing.assert_array_equal(mask, load_label(item["label"]))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1)])
def test_2d_images(tmp_path, shape):
    image = 1 + np.random.default_rng(0).random(shape).astype(np.float32)
    paths = [tmp_path / "a.nii.gz", tmp_path / "l.nii.gz"]
    for array, path in zip((image, blobs(shape[:2]).reshape(shape)), paths, strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([0.5, 1.0, 1.0, 1.0])), path)
    ready, mask = there_and_back({"image": str(paths[0]), "label": str(paths[1])}, make_plan("2d"))
    assert ready["image"].shape == (1, 10, 30) and mask.shape == (1, 20, 30)
    assert dice(mask[0], torch.from_numpy(blobs((20, 30)))) > 0.9


def test_unlabelled_items_need_no_label(tmp_path):
    item = save_pair(tmp_path, "a")
    del item["label"]
    assert "label" not in preprocessing(make_plan("3d"))(item)


def refused(tmp_path, name):
    item, plan = save_pair(tmp_path, "a"), make_plan("3d")
    if name == "channels":
        return item, make_plan("3d", channel_names=("T1", "T2"))
    if name == "dims":
        return item, make_plan("2d")
    if name == "zeros":
        item["image"] = [str(save(np.zeros((5, 5, 5), np.float32), tmp_path / "z.nii"))]
    if name == "constant":
        item["image"] = [str(save(np.full((20, 22, 12), 7, np.float32), tmp_path / "c.nii"))]
    if name == "spacing":
        return {"image": [str(save(blobs((20, 22, 12)), tmp_path / "s.nii", make_affine(spacing=(1, 1, 1000))))]}, plan
    if name == "grid":
        item["label"] = str(save(blobs((20, 22, 12)), tmp_path / "g.nii", make_affine("LPS")))
    if name == "shape":
        item["label"] = str(save(blobs((20, 22, 11)), tmp_path / "g.nii"))
    if name == "regions":
        plan = make_plan("3d", labels={"background": 0, "whole": 1, "core": 2}, regions={"whole": (1, 2), "core": (2,)})
    if name == "ignored":
        plan = make_plan("3d", ignore_value=9)
    if name in ("values", "regions", "ignored"):
        item["label"] = str(save(np.full((20, 22, 12), 9, np.uint8), tmp_path / "v.nii"))
    return item, plan


@pytest.mark.parametrize(
    "name, words",
    [
        ("channels", r"expected 2 channels \(T1, T2\), received 1"),
        ("dims", "expected 2 spatial dimensions"),
        ("zeros", "received the value 0 all over"),
        ("constant", "received the value 7 all over"),
        ("spacing", r"expected a spacing within 50 times the plan's .*, received 1 x 1 x 1000 mm"),
        ("grid", r"g\.nii: expected the image's affine .* \(.*a\.nii\.gz\), received"),
        ("shape", r"g\.nii: expected the image's shape \(20, 22, 12\), received \(20, 22, 11\)"),
        ("values", r"received \[9\]"),
        ("regions", r"expected the declared label values {'whole': \(1, 2\), 'core': \(2,\)}, received \[9\]"),
        ("ignored", "received ignored ones alone. Leave its label file away"),
    ],
)
def test_refused_with_file_and_reason(tmp_path, name, words):
    item, plan = refused(tmp_path, name)
    with pytest.raises(RuntimeError) as error:
        preprocessing(plan)(item)
    assert str(tmp_path) in reason(error.value)
    with pytest.raises(type(error.value.__cause__), match=words):
        raise error.value.__cause__


@pytest.mark.parametrize("limits", [(-179, -31), (-950, -400), (-60, 250)])  # fat, lung, soft tissue
@pytest.mark.parametrize(("offset", "told"), [(0, False), (1024, True)])
def test_ct_without_its_offset_is_told(tmp_path, caplog, limits, offset, told):
    """A body of fat, muscle, bone and lung in air, which fills half of the scan."""
    plan = make_plan("3d", normalization=(ChannelNormalization("CT", "ct", False, *limits, 40, 50),))
    scan = np.full((20, 22, 12), -1000, np.float32)
    scan[:4], scan[4:7], scan[7:9], scan[9:12] = -100, 50, 900, -700
    preprocessing(plan, "image")({"image": [str(save(scan + offset, tmp_path / "a.nii"))]})
    assert ("a.nii: expected Hounsfield units, in which" in caplog.text) == told


def test_a_channel_of_one_value_among_others_is_told(tmp_path, caplog):
    plan = make_plan("3d", channel_names=("T1", "T2"), normalization=(ChannelNormalization("T1", "zscore"),) * 2)
    files = [
        save(np.full((20, 22, 12), 3, np.float32), tmp_path / "b.nii"),
        save(blobs((20, 22, 12)), tmp_path / "a.nii"),
    ]
    assert preprocessing(plan, "image")({"image": files})["image"].isfinite().all()
    assert "channel T1 has one value all over" in caplog.text


@pytest.mark.parametrize(
    ("grid", "fits"), [((1, 1, 900), True), ((0.001, 1, 5), False), ((0.001, 0.001, 0.001), False)]
)
def test_the_distance_of_slices_may_be_any(tmp_path, grid, fits):
    image = save(blobs((20, 22, 12)).astype(np.float32), tmp_path / "a.nii", make_affine(spacing=grid))
    chain = preprocessing(make_plan("slicewise"), "image")
    if fits:
        chain({"image": [image]})
    else:
        with pytest.raises(RuntimeError) as error:
            chain({"image": [image]})
        assert "expected a spacing within 50 times" in reason(error.value)


class TestIgnored:
    PLAN = make_plan("3d", ignore_value=9)

    def ignored_pair(self, folder, spacing, ignore=slice(10, None)):
        item = save_pair(folder, "a", affine=make_affine(spacing=spacing))
        label = load_label(item["label"])[0].numpy().astype(np.uint8)
        label[ignore] = 9
        save(label, folder / "a_label.nii.gz", make_affine(spacing=spacing))
        return item

    def test_stored_as_an_index_of_its_own(self, tmp_path):
        label = preprocessing(self.PLAN)(self.ignored_pair(tmp_path, (1, 1, 1)))["label"][0]
        assert (label[10:] == STORED_IGNORED).all() and label[:10].max() == 2

    def test_resampled_as_a_class_is(self, tmp_path):
        """At twice the resolution its border lies where it lay, 10 of 20 mm, and nothing beside it changes."""
        label = preprocessing(self.PLAN)(self.ignored_pair(tmp_path, (2, 2, 2)))["label"][0]
        whole = preprocessing(self.PLAN)(save_pair(tmp_path / "whole", "a", affine=make_affine(spacing=(2, 2, 2))))
        assert (label[20:] == STORED_IGNORED).all() and not (label[:20] == STORED_IGNORED).any()
        assert torch.equal(label[:18], whole["label"][0][:18])

    def test_other_plans_refuse_it(self, tmp_path):
        with pytest.raises(Exception) as error:
            preprocessing(make_plan("3d"))(self.ignored_pair(tmp_path, (1, 1, 1)))
        assert "received [9]" in reason(error.value)

    def test_a_label_without_an_annotated_voxel_is_refused(self, tmp_path):
        with pytest.raises(Exception) as error:
            preprocessing(self.PLAN)(self.ignored_pair(tmp_path, (1, 1, 1), slice(None)))
        assert "Leave its label file away" in reason(error.value)

    def test_never_predicted(self, tmp_path):
        item = self.ignored_pair(tmp_path, (1, 1, 1))
        chain = preprocessing(self.PLAN)
        image = chain(item)["image"]
        mask = restore_mask(torch.randn(self.PLAN.num_classes, *image.shape[1:]), image, chain, self.PLAN)
        assert set(np.unique(mask)) == {0, 1, 2}


class TestRegions:
    """Blobs of value 2 inside 1, as the whole (1 and 2, painted 1) and its core (2)."""

    PLAN = make_plan(
        "3d", labels={"background": 0, "whole": 1, "core": 2}, regions={"whole": (1, 2), "core": (2,)}, ignore_value=9
    )

    def logits(self, label):
        return outputs_of(self.PLAN).target(label[None])[0].float() * 20 - 10

    @pytest.mark.parametrize("grid", GRIDS)
    def test_the_mask_is_the_label_that_was_there(self, tmp_path, grid):
        item = save_pair(tmp_path, "a", affine=GRIDS[grid])
        chain = preprocessing(self.PLAN)
        ready = chain(item)
        mask = restore_mask(self.logits(ready["label"]), ready["image"], chain, self.PLAN)
        np.testing.assert_array_equal(mask, load_label(item["label"]))

    def test_a_core_outside_of_the_whole_is_still_painted(self, tmp_path):
        item = save_pair(tmp_path, "a")
        chain = preprocessing(self.PLAN)
        image = chain(item)["image"]
        logits = torch.full((2, *image.shape[1:]), -5.0)
        logits[1, 3, 3, 3] = 5
        mask = restore_mask(logits, image, chain, self.PLAN)
        assert int(mask[0, 3, 3, 3]) == 2 and mask.sum() == 2

    def test_probabilities_are_those_of_each_region(self, tmp_path):
        item = save_pair(tmp_path, "a")
        chain = preprocessing(self.PLAN)
        image = chain(item)["image"]
        logits = torch.randn(2, *image.shape[1:])
        np.testing.assert_allclose(restore_probabilities(logits, image, chain, self.PLAN), logits.sigmoid(), atol=1e-6)

    def test_values_are_painted_as_the_plan_says(self, tmp_path):
        """The same regions of files in which the core is 1: it is painted 1, over 2."""
        plan = self.PLAN.replace(
            labels={"background": 0, "whole": 2, "core": 1}, regions={"whole": (1, 2), "core": (1,)}
        )
        item = save_pair(tmp_path, "a")
        chain = preprocessing(plan)
        ready = chain(item)
        mask = restore_mask(outputs_of(plan).target(ready["label"][None])[0].float() - 0.5, ready["image"], chain, plan)
        np.testing.assert_array_equal(mask, load_label(item["label"]))


def test_torch_s_lack_of_memory_is_told_in_words():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**52)
    assert "memory of this machine does not suffice" in reason(error.value)
