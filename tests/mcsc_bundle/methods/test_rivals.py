"""Values of UA-MT, CPS, URPC and BCP, by hand or against plain loops."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from mcsc_bundle.losses.segmentation import nnunet_loss
from mcsc_bundle.methods import BCP, CPS, UAMT, URPC
from mcsc_bundle.methods.bcp import largest_components
from mcsc_bundle.methods.ema import EMATeacher
from mcsc_bundle.methods.mean_teacher import noisy
from mcsc_bundle.methods.urpc import feature_dropout, feature_noise
from mcsc_bundle.methods.views import one_box
from mcsc_bundle.networks import NetworkPair, UNet
from tests.mcsc_bundle.methods.cases import batch_of, build
from tests.plans import make_plan

KINDS = ("slicewise", "3d")


def softmax(logits):
    """Of a numpy array ``(B, C, voxels)``."""
    power = np.exp(logits - logits.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


def plain(logits):
    return logits.detach().double().flatten(2).numpy()


class TestNoise:
    def test_it_is_a_tenth_of_the_range_of_each_channel(self):
        """Channel 0 from 0 to 10, channel 1 from 0 to 40, channel 2 constant; noise is clipped at twice its deviation."""
        torch.manual_seed(0)
        ramp = torch.linspace(0, 1, 40_000).view(1, 1, 200, 200)
        image = torch.cat((10 * ramp, 40 * ramp, torch.full_like(ramp, 3.0)), 1)
        noise = noisy(image) - image
        assert noise[:, 0].std().item() == pytest.approx(0.1 * 10 * 0.959, rel=0.02)  # 0.959: of a normal clipped at 2
        assert noise[:, 1].std().item() == pytest.approx(0.1 * 40 * 0.959, rel=0.02)
        assert noise[:, 1].abs().max().item() == pytest.approx(0.2 * 40, rel=1e-4)
        assert not noise[:, 2].any()

    def test_each_patch_has_its_own_range(self):
        torch.manual_seed(0)
        image = torch.linspace(0, 1, 4096).expand(2, 1, 4096) * torch.tensor([1.0, 100.0]).view(2, 1, 1)
        one, two = (noisy(image) - image).flatten(1).std(1)
        assert (two / one).item() == pytest.approx(100, rel=0.1)


class TestUAMT:
    def test_entropy_of_the_mean_over_looks(self):
        """Two looks that are sure of different classes leave one bit; two equal ones none."""
        _, module = build("slicewise", UAMT)
        looks = iter(torch.tensor([[[900.0, 0, 0], [900.0, 0, 0]], [[0, 900.0, 0], [900.0, 0, 0]]]))
        module.passes = 2
        module.teacher.sample = lambda image: next(looks).view(2, 3, 1, 1)
        assert module.uncertainty(torch.zeros(2, 1, 1, 1)).flatten().tolist() == pytest.approx([math.log(2), 0])

    @pytest.mark.parametrize("progress", (0.0, 0.5, 1.0))
    def test_threshold_rises_to_its_bound(self, progress):
        _, module = build("slicewise", UAMT)
        threshold = (0.75 + 0.25 * math.exp(-5 * (1 - progress) ** 2)) * math.log(2)
        module.uncertainty = lambda image: torch.tensor([0.999, 1.001]).view(1, 1, 1, 2) * threshold
        module.teacher.forward = lambda image: torch.zeros(1, 3, 1, 2)
        logits = torch.randn(1, 3, 1, 2, requires_grad=True)
        value = module.consistency(logits, torch.zeros(1, 1, 1, 2), progress)
        value.backward()
        squared = ((softmax(plain(logits))[0, :, 0] - 1 / 3) ** 2).sum()
        assert value.item() == pytest.approx(squared / 2)  # one certain voxel
        assert logits.grad[..., 0].any() and not logits.grad[..., 1].any()

    def test_looks_differ_by_dropout_alone_and_the_teacher_is_quiet_afterwards(self):
        teacher = EMATeacher(nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Dropout(0.5)))
        x = torch.randn(3, 4)
        assert not torch.equal(teacher.sample(x), teacher.sample(x))
        assert torch.equal(teacher(x), teacher(x)) and not any(m.training for m in teacher.network.modules())
        assert teacher.network[1].num_batches_tracked == 0  # normalisation never left eval mode


class TestCPS:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_network_learns_the_other_s_labels(self, kind):
        plan, module = build(kind, CPS)
        batch = batch_of(plan)
        terms = module(batch, 1.0)
        one, two = (softmax(plain(network(batch["image"][2:]))) for network in (module.cnn, module.second))
        for name, mine, theirs in (("cross_cnn", one, two), ("cross_second", two, one)):
            logs = [
                -math.log(mine[b, theirs[b, :, v].argmax(), v])
                for b in range(mine.shape[0])
                for v in range(mine.shape[2])
            ]
            assert terms[name].item() == pytest.approx(0.1 * np.mean(logs), rel=1e-4)

    def test_both_networks_learn_at_the_same_rate(self):
        _, module = build("3d", CPS)
        (group,) = module.parameter_groups(0.1)
        assert len(group["params"]) == 2 * len(list(module.cnn.parameters()))

    def test_refuses_twins(self):
        networks = NetworkPair.from_plan(make_plan("3d"))
        twin = UNet.from_plan(make_plan("3d"))
        twin.load_state_dict(networks.cnn.state_dict())
        with pytest.raises(ValueError, match="different initial weights"):
            CPS(networks, twin, nnunet_loss())


def deep_unet(dims, stages):
    """A U-Net of ``stages`` stages with features 2, 3, 4, ..."""
    strides = ((1,) * dims,) + ((2,) * dims,) * (stages - 1)
    return UNet(dims, 1, 3, tuple(range(2, 2 + stages)), ((3,) * dims,) * stages, strides, convs_per_stage=1)


class TestURPC:
    @pytest.mark.parametrize("dims", (2, 3))
    @pytest.mark.parametrize(("stages", "scales"), ((3, 2), (5, 4)))
    def test_scales_are_the_finest_decoder_stages(self, dims, stages, scales):
        cnn = deep_unet(dims, stages)
        module = URPC(NetworkPair(cnn, nn.Identity()), nnunet_loss()).eval()
        image = torch.randn(2, 1, *[32] * dims)
        pyramid = module.pyramid(image)
        assert [tuple(logits.shape) for logits in pyramid] == [(2, 3, *image.shape[2:])] * scales
        assert torch.equal(pyramid[-1], cnn(image))
        half = pyramid[-2]  # nearest: every block of 2 voxels an axis is constant
        assert torch.equal(half[:, :, ::2], half[:, :, 1::2]) and not torch.equal(half[:, :, :-2:2], half[:, :, 2::2])

    def test_more_stages_do_not_add_scales(self):
        module = URPC(NetworkPair(deep_unet(2, 6), nn.Identity()), nnunet_loss())
        assert [head.in_channels for head in module.heads] == [5, 4, 3]  # 1/8, 1/4, 1/2

    def test_features_are_disturbed_in_training_alone(self):
        plan, module = build("3d", URPC)
        image = batch_of(plan)["image"]
        calm, other = module.eval().pyramid(image), module.pyramid(image)
        assert all(map(torch.equal, calm, other))
        disturbed = module.train().pyramid(image)
        assert torch.equal(disturbed[-1], calm[-1]) and not torch.equal(disturbed[0], calm[0])

    def test_the_heads_are_not_part_of_what_is_shipped(self):
        _, module = build("3d", URPC)
        shipped = set(map(id, module.shipped.parameters()))
        assert not any(id(p) in shipped for p in module.heads.parameters())

    def test_refuses_a_network_of_one_scale(self):
        with pytest.raises(ValueError, match="at least two decoder stages"):
            URPC(NetworkPair(deep_unet(2, 2), nn.Identity()), nnunet_loss())

    def test_feature_dropout_takes_the_most_active_voxels(self):
        x = torch.tensor([1.0, 6.9, 9.1, 10.0]).view(1, 1, 1, 4).expand(1, 2, 1, 4)
        assert feature_dropout(x)[0].tolist() == [[[1.0, pytest.approx(6.9), 0, 0]]] * 2

    def test_feature_noise_is_shared_by_the_batch_and_bounded(self):
        factor = feature_noise(torch.ones(2, 5, 10, 10))
        assert torch.equal(factor[0], factor[1]) and factor.min() > 0.69 and factor.max() < 1.31 and factor.std() > 0.1


class TestBox:
    @pytest.mark.parametrize(
        ("shape", "sides"), [((6, 9), (4, 6)), ((4, 16, 16), (2, 10, 10)), ((1, 3), (1, 2)), ((7, 7), (4, 4))]
    )
    def test_is_a_box_of_two_thirds_of_every_axis(self, shape, sides):
        for _ in range(20):
            mask = one_box(shape, 2 / 3, torch.device("cpu"))
            (slices,) = ndimage.find_objects(mask[0, 0].int().numpy())
            assert mask.shape == (1, 1, *shape) and mask.sum() == math.prod(sides)
            assert tuple(part.stop - part.start for part in slices) == sides

    def test_reaches_every_position(self):
        torch.manual_seed(0)
        starts = {int(one_box((6,), 2 / 3, torch.device("cpu"))[0, 0].int().argmax()) for _ in range(100)}
        assert starts == {0, 1, 2}


class TestLargestComponents:
    @pytest.mark.parametrize("shape", ((12, 13), (6, 7, 8)))
    def test_against_labelling_by_scipy(self, shape):
        labels = torch.from_numpy(np.random.default_rng(0).choice(3, (2, *shape), p=(0.8, 0.1, 0.1)))
        cleaned = largest_components(labels[:, None])[:, 0]
        assert not torch.equal(cleaned, labels)
        for patch, result in zip(labels.numpy(), cleaned.numpy(), strict=True):
            for index in (1, 2):
                parts, count = ndimage.label(patch == index, np.ones((3,) * patch.ndim))
                masks = [parts == part for part in range(1, count + 1)]
                largest = max(mask.sum() for mask in masks)  # several may be as large
                assert any(np.array_equal(mask, result == index) for mask in masks if mask.sum() == largest)

    def test_the_layout_in_memory_does_not_matter(self):
        regions = torch.from_numpy(np.random.default_rng(0).choice(2, (2, 3, 9, 9)))
        cleaned = largest_components(regions)
        assert not torch.equal(cleaned, regions)
        assert torch.equal(largest_components(regions.to(memory_format=torch.channels_last)), cleaned)

    def test_classes_that_are_not_there_stay_away(self):
        assert torch.equal(largest_components(torch.zeros(2, 1, 4, 4, dtype=torch.long)), torch.zeros(2, 1, 4, 4))

    def test_the_argument_is_left_alone(self):
        labels = torch.tensor([[[[1, 0, 1, 1]]]])
        largest_components(labels)
        assert labels.tolist() == [[[[1, 0, 1, 1]]]]


def region_by_loops(logits, target, region):
    """``0.5 (CE + Dice)`` of ``(B, C, *spatial)``, ``(B, *spatial)`` and a mask, voxel by voxel."""
    probability, classes = softmax(plain(logits)), logits.shape[1]
    truth = target.flatten(1).numpy()
    inside = region.expand(len(logits), *region.shape[1:]).flatten(1).numpy()
    logs, overlap, total = [], np.zeros(classes), np.zeros(classes)
    for b, v in zip(*np.nonzero(inside), strict=True):
        logs.append(-math.log(probability[b, truth[b, v], v]))
        for c in range(classes):
            hit = float(truth[b, v] == c)
            overlap[c] += probability[b, c, v] * hit
            total[c] += probability[b, c, v] ** 2 + hit
    return 0.5 * (np.mean(logs) + np.mean(1 - (2 * overlap + 1e-5) / (total + 1e-5)))


@pytest.mark.parametrize("kind", KINDS)
class TestBCP:
    def build(self, kind, progress):
        """Method, batch, terms, and what is needed to work them out: the box and what the CNN saw and said."""
        plan, module = build(kind, BCP)
        for parameter in module.teacher.parameters():  # not the student's labels
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        batch, calls = batch_of(plan), []
        module.cnn.register_forward_hook(lambda _, args, out: calls.append((args[0], out)))
        torch.manual_seed(3)
        terms = module(batch, progress)
        torch.manual_seed(3)
        box = one_box(plan.patch_size, 2 / 3, torch.device("cpu"))
        (call,) = calls
        return module, batch, terms, box, call

    def test_both_directions_score_each_region_by_its_own_labels(self, kind):
        module, batch, terms, box, (seen, logits) = self.build(kind, 0.5)
        labeled, unlabeled = batch["image"].split(2)
        truth, pseudo = batch["label"][:, 0], largest_components(module.outputs.hard(module.teacher(unlabeled)))[:, 0]
        inside = box.expand(2, *box.shape[1:])
        assert torch.equal(seen[:2][inside], labeled[inside]) and torch.equal(seen[:2][~inside], unlabeled[~inside])
        assert torch.equal(seen[2:][inside], unlabeled[inside]) and torch.equal(seen[2:][~inside], labeled[~inside])
        expected = {
            "labeled_inside": region_by_loops(logits[:2], truth, box),
            "unlabeled_outside": 0.5 * region_by_loops(logits[:2], pseudo, ~box),
            "labeled_outside": region_by_loops(logits[2:], truth, ~box),
            "unlabeled_inside": 0.5 * region_by_loops(logits[2:], pseudo, box),
        }
        assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4)

    def test_pretraining_mixes_labelled_pairs(self, kind):
        _, batch, terms, box, (seen, logits) = self.build(kind, 0.2)
        first, second = batch["image"][:2]
        assert torch.equal(seen[0], torch.where(box[0], second, first))
        truth = batch["label"][:, 0]
        assert terms["labeled_inside"].item() == pytest.approx(region_by_loops(logits, truth.flip(0), box), rel=1e-4)
        assert terms["labeled_outside"].item() == pytest.approx(region_by_loops(logits, truth, ~box), rel=1e-4)

    @pytest.mark.parametrize("sizes", ((1, 1), (2, 1), (1, 3)))
    def test_batches_of_any_size_mix_every_patch(self, kind, sizes):
        plan, module = build(kind, BCP)
        seen = []
        module.cnn.register_forward_hook(lambda _, args, out: seen.append(args[0]))
        labeled, unlabeled = sizes
        batch = batch_of(plan, labeled=labeled, unlabeled=unlabeled)
        batch["image"] = torch.arange(sum(sizes)).view(-1, *[1] * (batch["image"].ndim - 1)) + 0 * batch["image"]
        module(batch, 0.5)
        assert len(seen[0]) == 2 * max(sizes) and set(seen[0].unique().tolist()) == set(range(sum(sizes)))
        module(batch, 0.0)
        assert len(seen[1]) == labeled
