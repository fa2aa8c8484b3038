"""The loss against its formula by loops, its values by hand, its edges and its laws."""

import pytest
import torch

from mcsc_bundle.losses import contrastive
from mcsc_bundle.losses.blocks import local_blocks
from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from tests.mcsc_bundle.losses import reference

FOUR = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]])


def draw(groups=2, size=23, width=5, classes=3, ignored=0.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(groups, size, width, generator=generator).to(dtype)
    labels = torch.randint(0, classes, (groups, size), generator=generator)
    return features, labels.masked_fill(torch.rand(groups, size, generator=generator) < ignored, -1)


def value_and_gradient(loss, features, *arguments, **options):
    leaf = features.clone().requires_grad_()
    value = loss(leaf, *arguments, **options)
    return value.detach(), *torch.autograd.grad(value, leaf)


def assert_close(ours, judge, tolerance=1e-5):
    for mine, right in zip(ours, judge, strict=True):
        assert (mine.double() - right).norm() <= tolerance * right.norm()


class TestValuesByHand:
    @pytest.mark.parametrize(
        ("labels", "temperature", "expected"),
        [((0, 1, 1, 0), 0.5, 0.302453), ((0, 1, 1, 0), 0.1, 0.036385), ((0, 0, 0, 1), 0.5, 0.711491)],
    )
    def test_the_authors_loss_on_one_map(self, labels, temperature, expected):
        value = balanced_contrastive_loss(FOUR, torch.tensor([labels]), 2, temperature)
        assert float(value) == pytest.approx(expected, abs=1e-6)

    def test_the_reference_gives_the_authors_terms(self):
        assert reference.anchor_losses(FOUR[0].double(), [0, 1, 1, 0], 0.5) == pytest.approx(
            [0.256448, 0.183901, 0.513015, 0.256448], abs=1e-6
        )

    def test_two_equal_positives_alone_cost_nothing(self):
        value = balanced_contrastive_loss(FOUR[:, [0, 3]], torch.tensor([[1, 1]]), 2)
        assert float(value) == pytest.approx(0.0, abs=1e-5)

    def test_features_need_not_have_unit_length(self):
        labels = torch.tensor([[0, 1, 1, 0]])
        plain, longer = (balanced_contrastive_loss(factor * FOUR, labels, 2, 0.5) for factor in (1, 7))
        assert torch.allclose(longer, plain)


class TestAgainstTheFormula:
    @pytest.mark.parametrize("classes", [1, 2, 4, 8])
    @pytest.mark.parametrize("balance_anchors", [False, True])
    @pytest.mark.parametrize("ignored", [0.0, 0.4])
    def test_value_and_gradient(self, classes, balance_anchors, ignored):
        features, labels = draw(classes=classes, ignored=ignored)
        options = {"balance_anchors": balance_anchors, "skip_background_groups": classes > 1}
        ours = value_and_gradient(balanced_contrastive_loss, features, labels, classes, chunk_size=8, **options)
        assert_close(ours, value_and_gradient(reference.contrastive_loss, features.double(), labels, **options))

    @pytest.mark.parametrize("temperature", [0.03, 0.1, 0.7])
    def test_temperatures(self, temperature):
        features, labels = draw(size=17)
        ours = value_and_gradient(balanced_contrastive_loss, features, labels, 3, temperature)
        assert_close(ours, value_and_gradient(reference.contrastive_loss, features.double(), labels, temperature))

    @pytest.mark.parametrize(("shape", "block"), [((7, 5), (3, 2)), ((5, 4, 3), (2, 3, 1))])
    def test_maps_cut_into_local_blocks(self, shape, block):
        maps, width, classes = 3, 4, 3
        features = torch.randn(maps, *shape, width).flatten(1, -2)
        labels = torch.randint(0, classes, (maps, features.shape[1]))
        where = local_blocks(shape, block, maps)
        rows = torch.arange(maps)[:, None]
        grouped, target = features[rows, where].flatten(1, 2), labels[rows, where].flatten(1)
        ours = value_and_gradient(balanced_contrastive_loss, grouped, target, classes)
        assert_close(ours, value_and_gradient(reference.contrastive_loss, grouped.double(), target))

    def test_near_the_optimum_attraction_and_repulsion_cancel_without_loss(self):
        features, labels = draw(groups=1, size=200, width=64)
        features = torch.eye(3, 64)[labels] + 0.01 * features
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3)
        value, gradient = value_and_gradient(balanced_contrastive_loss, features, labels, 3)
        assert abs(value - judge[0]) < 3e-6  # a difference of similarities near 10, where float32 has steps of 1e-6
        assert (gradient - judge[1]).norm() < 1e-3 * judge[1].norm()

    def test_autograd_agrees_with_finite_differences(self):
        features, labels = draw(groups=2, size=7, width=3, ignored=0.2, dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda x: balanced_contrastive_loss(x, labels, 3, chunk_size=3), features.requires_grad_()
        )


class TestEdges:
    def test_groups_of_background_are_left_out_of_the_mean(self):
        features, labels = draw(groups=2)
        labels[1] = 0
        both = value_and_gradient(balanced_contrastive_loss, features, labels, 3)
        first = value_and_gradient(balanced_contrastive_loss, features[:1], labels[:1], 3)
        assert_close((both[0], both[1][:1]), first, 1e-6)
        assert not both[1][1].any()

    def test_they_count_if_asked(self):
        features, labels = draw(groups=2)
        labels[1] = 0
        options = {"skip_background_groups": False}
        ours = value_and_gradient(balanced_contrastive_loss, features, labels, 3, **options)
        assert_close(ours, value_and_gradient(reference.contrastive_loss, features.double(), labels, **options))

    @pytest.mark.parametrize("label", [0, -1])
    def test_nothing_to_contrast_is_zero_and_backward_works(self, label):
        features, labels = draw()
        value, gradient = value_and_gradient(balanced_contrastive_loss, features, torch.full_like(labels, label), 3)
        assert value == 0 and not gradient.any()

    @pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3)])
    def test_no_groups_or_no_pixels_is_zero(self, shape):
        value, gradient = value_and_gradient(
            balanced_contrastive_loss, torch.zeros(shape), torch.zeros(shape[:2], dtype=torch.long), 3
        )
        assert value == 0 and gradient.shape == shape

    def test_a_single_pixel_of_a_class_has_no_positive_but_is_a_key(self):
        labels = torch.tensor([[0, 0, 0, 1]])
        ours = value_and_gradient(balanced_contrastive_loss, FOUR, labels, 2, 0.5)
        assert_close(ours, value_and_gradient(reference.contrastive_loss, FOUR.double(), labels, 0.5))
        assert ours[1][0, 1].any()

    def test_balanced_anchors_leave_out_classes_without_positives(self):
        value = balanced_contrastive_loss(FOUR, torch.tensor([[0, 0, 0, 1]]), 2, 0.5, balance_anchors=True)
        assert float(value) == pytest.approx((1.656448 + 0.580406 + 0.609112) / 3, abs=1e-6)

    def test_two_opposite_pixels_of_a_class(self):
        features = torch.tensor([[[1.0, 0.0], [-1.0, 1e-3], [0.0, 1.0]]])
        labels = torch.tensor([[1, 1, 0]])
        ours = value_and_gradient(balanced_contrastive_loss, features, labels, 2)
        assert_close(ours, value_and_gradient(reference.contrastive_loss, features.double(), labels))

    def test_ignored_rows_may_hold_anything(self):
        features, labels = draw(ignored=0.3)
        plain = value_and_gradient(balanced_contrastive_loss, features, labels, 3)
        broken = features.masked_fill((labels == -1).unsqueeze(2), torch.nan)
        value, gradient = value_and_gradient(balanced_contrastive_loss, broken, labels, 3)
        assert value == plain[0] and torch.equal(gradient, plain[1])

    def test_another_ignored_label(self):
        features, labels = draw()
        ours = balanced_contrastive_loss(features, labels, 3, ignore_index=2)
        assert ours == balanced_contrastive_loss(features, labels.masked_fill(labels == 2, -1), 3)

    def test_a_vector_of_zeros_has_no_direction_and_gets_no_gradient(self):
        features, labels = draw()
        features[0, 3] = 0
        value, gradient = value_and_gradient(balanced_contrastive_loss, features, labels, 3)
        assert torch.isfinite(value) and torch.isfinite(gradient).all() and not gradient[0, 3].any()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("temperature", [0.02, 0.1])
    def test_half_precision_is_finite_and_near(self, dtype, temperature):
        features, labels = draw(size=64, width=16, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours = value_and_gradient(balanced_contrastive_loss, 100 * features, labels, 3, temperature)
        judge = value_and_gradient(balanced_contrastive_loss, 100 * features.double(), labels, 3, temperature)
        assert ours[0].dtype == torch.float32 and ours[1].dtype == dtype
        assert ours[0] == pytest.approx(float(judge[0]), rel=1e-4)
        assert (ours[1].double() - judge[1]).norm() < 0.01 * judge[1].norm()

    def test_errors_say_what_was_received(self):
        features, labels = draw()
        with pytest.raises(ValueError, match=r"received \(2, 23, 5\) and \(23, 2\)"):
            balanced_contrastive_loss(features, labels.T, 3)
        with pytest.raises(ValueError, match=r"at least 0\.02, received 0"):
            balanced_contrastive_loss(features, labels, 3, temperature=0.0)


class TestLaws:
    @pytest.mark.parametrize("chunk_size", [1, 7, 64, None])
    @pytest.mark.parametrize("workspace", [0, 2**20])
    def test_the_tiling_changes_nothing(self, chunk_size, workspace, monkeypatch):
        features, labels = draw(groups=3, size=40)
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3, chunk_size=40)
        monkeypatch.setattr(contrastive, "CPU_WORKSPACE", workspace)
        assert_close(value_and_gradient(balanced_contrastive_loss, features, labels, 3, chunk_size=chunk_size), judge)

    def test_the_order_of_pixels_is_nothing(self):
        features, labels = draw(dtype=torch.float64)
        order = torch.randperm(features.shape[1])
        value, gradient = value_and_gradient(balanced_contrastive_loss, features, labels, 3)
        moved = value_and_gradient(balanced_contrastive_loss, features[:, order], labels[:, order], 3)
        assert_close(moved, (value, gradient[:, order]), 1e-12)

    def test_the_names_of_classes_are_nothing(self):
        features, labels = draw(dtype=torch.float64)
        renamed = torch.tensor([2, 0, 1])[labels]
        assert_close(
            value_and_gradient(balanced_contrastive_loss, features, renamed, 3),
            value_and_gradient(balanced_contrastive_loss, features, labels, 3),
            1e-12,
        )

    def test_the_value_is_the_same_without_a_gradient(self):
        features, labels = draw()
        with torch.no_grad():
            alone = balanced_contrastive_loss(features, labels, 3)
        assert alone == value_and_gradient(balanced_contrastive_loss, features, labels, 3)[0]

    def test_the_gradient_scales_with_the_upstream_one(self):
        features, labels = draw()
        once = value_and_gradient(balanced_contrastive_loss, features, labels, 3)[1]
        scaled = value_and_gradient(lambda *a: 512 * balanced_contrastive_loss(*a), features, labels, 3)[1]
        assert torch.equal(scaled, 512 * once)

    def test_descent_separates_the_classes(self):
        features, labels = draw(groups=1, size=30)
        for _ in range(100):
            features = features - 10 * value_and_gradient(balanced_contrastive_loss, features, labels, 3, 0.5)[1]
        unit = torch.nn.functional.normalize(features[0], dim=1)
        same = labels[0][:, None] == labels[0]
        assert (unit @ unit.T)[same].min() > 0.9 and (unit @ unit.T)[~same].max() < 0

    def test_it_compiles_as_one_graph(self):
        features, labels = draw(ignored=0.2)
        compiled = torch.compile(balanced_contrastive_loss, backend="aot_eager", fullgraph=True)
        ours = value_and_gradient(compiled, features, labels, 3)
        assert_close(ours, value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3))


def test_memory_grows_linearly(monkeypatch):
    monkeypatch.setattr(contrastive, "CPU_WORKSPACE", 0)
    peaks = [largest_sum_of_tensors(size) for size in (256, 512, 1024)]
    assert peaks[2] / peaks[1] < 2.1 and peaks[1] / peaks[0] < 2.1


def largest_sum_of_tensors(size):
    """Peak of the memory held by new tensors over one call, in bytes, from the profiler's record of allocations."""
    features, labels = draw(groups=1, size=size, width=8)
    features.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        balanced_contrastive_loss(features, labels, 3, chunk_size=64).backward()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
