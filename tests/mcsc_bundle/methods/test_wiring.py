"""What MCSC's parts are fed with: that features meet their own labels, pseudo-labels come from where they should, and the
defaults are the documented ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.nn import functional as F

from mcsc_bundle.methods import MCSC, CrossTeaching, MultiScaleContrast, PaperMCSC, contrast
from mcsc_bundle.methods.contrast import choose_voxels, share_of_block
from mcsc_bundle.networks import NetworkPair
from mcsc_bundle.plan import ContrastScale
from tests.mcsc_bundle.methods.cases import batch_of, build, confident
from tests.plans import make_plan

CONFIGS = Path(__file__).parents[3] / "configs"
KINDS = ("slicewise", "3d")


class AsTheyAre(nn.Module):
    """In place of a projector: the first channel alone."""

    dtype = torch.float32

    def forward(self, cnn, transformer):
        return torch.cat((cnn[..., :1], transformer[..., :1]), 1)


def telling_features(network, label):
    """Maps of a network's shape whose first channel is the class of each voxel's place."""
    maps = []
    for channels, stride in zip(network.feature_channels, network.feature_strides, strict=True):
        size = [-(-n // s) for n, s in zip(label.shape[1:], stride, strict=True)]
        first = F.interpolate(label[:, None].float(), size, mode="nearest-exact")
        maps.append(torch.cat([first] + [torch.full_like(first, -7.0)] * (channels - 1), 1))
    return maps


@pytest.mark.parametrize("kind", KINDS)
class TestMultiScaleContrast:
    def seen_by_the_loss(self, monkeypatch, kind):
        """Vectors and labels of each scale, for features that hold their label; the networks' labels differ."""
        plan = make_plan(kind, batch_labeled=2, batch_unlabeled=2)
        networks = NetworkPair.from_plan(plan)
        module = MultiScaleContrast(plan, networks)
        module.projectors = nn.ModuleList(AsTheyAre() for _ in plan.contrast)
        seen = []

        def loss(vectors, target, *options, **more):
            seen.append((vectors, target))
            return vectors.sum()

        monkeypatch.setattr(contrast, "balanced_contrastive_loss", loss)
        torch.manual_seed(1)
        labels = tuple(torch.randint(0, plan.num_classes, (4, *plan.patch_size)) for _ in range(2))
        module((telling_features(networks.cnn, labels[0]), telling_features(networks.transformer, labels[1])), labels)
        assert len(seen) == len(plan.contrast)
        return seen

    def test_every_feature_meets_its_own_label(self, monkeypatch, kind):
        """The released code's D1."""
        for vectors, target in self.seen_by_the_loss(monkeypatch, kind):
            assert torch.equal(vectors[..., 0].long(), target) and len(target.unique()) > 1

    def test_the_loss_gets_the_vectors_of_all_processes(self, monkeypatch, kind):
        monkeypatch.setattr(contrast, "gather_features", lambda vectors, target: (vectors + 100, target + 100))
        for vectors, target in self.seen_by_the_loss(monkeypatch, kind):
            assert (vectors >= 100).all() and (target >= 100).all()

    def test_beside_other_processes_it_costs_no_more(self, monkeypatch, kind):
        """Four: each gives a quarter of the vectors to four times the groups, and looks at a quarter of these."""
        alone = self.seen_by_the_loss(monkeypatch, kind)[0][1]  # the scale with a pixel budget
        monkeypatch.setattr(contrast, "mean_over_ranks", lambda losses: losses)
        monkeypatch.setattr(contrast, "world_size", lambda: 4)
        monkeypatch.setattr(contrast, "groups_of_rank", lambda: slice(1, None, 4))
        monkeypatch.setattr(contrast, "gather_features", lambda *both: [torch.cat([one] * 4, 1) for one in both])
        together = self.seen_by_the_loss(monkeypatch, kind)[0][1]
        assert together.shape == alone.shape


@pytest.mark.parametrize(
    ("ranks", "groups", "voxels"),
    [(1, 4, 64), (2, 4, 45), (4, 4, 32), (8, 4, 16), (4, 100, 16), (8, 100, 8)],
)
def test_pairs_stay_as_many_where_there_are_few_groups(ranks, groups, voxels):
    """4 blocks of 14 x 14, of each 64 pixels: 4 groups of 64 alone; of 2 processes each looks at 2 of 90, and so on."""
    assert share_of_block(ContrastScale((8, 8), (14, 14), pixels=256), groups, ranks) == voxels


def test_groups_with_foreground_come_first():
    targets = torch.zeros(1, 64, dtype=torch.long)
    targets[0, 40:48] = 1  # one block of eight
    where = torch.arange(64).view(8, 1, 8)
    for _ in range(5):
        _, chosen = choose_voxels(where, targets, ContrastScale((1,), (8,), pixels=8))
        assert chosen.unique().tolist() == [1]


class TestBalancedVoxels:
    """8 blocks of 128 voxels: 4 of class 1, 4 of class 2, 56 of background and 64 ignored in each."""

    where = torch.arange(1024).view(8, 1, 128)
    targets = torch.zeros(8, 128, dtype=torch.long)
    targets[:, :4], targets[:, 4:8], targets[:, 64:] = 1, 2, -1
    targets = targets.view(1, 1024)
    scale = ContrastScale((1,), (128,), pixels=128)

    def test_rare_classes_are_drawn_as_often_and_ignored_voxels_last(self):
        torch.manual_seed(0)
        _, chosen = choose_voxels(self.where, self.targets, self.scale, num_classes=3, per_block=12)
        assert (chosen >= 0).all()
        assert all((chosen == rare).sum() > 8 * 2.5 for rare in (1, 2))  # of 8 blocks; 0.4 in each if all were alike

    def test_all_voxels_of_a_block_are_alike_if_it_is_off(self):
        torch.manual_seed(0)
        _, chosen = choose_voxels(self.where, self.targets, self.scale, per_block=12)
        assert (chosen == -1).float().mean() == pytest.approx(0.5, abs=0.15)

    @pytest.mark.parametrize("balanced", (False, True))
    def test_the_contrast_asks_for_it_with_its_anchors(self, monkeypatch, balanced):
        asked = []

        def chosen(where, targets, scale, num_classes, *more):
            asked.append(num_classes)
            return choose_voxels(where, targets, scale, num_classes, *more)

        monkeypatch.setattr(contrast, "choose_voxels", chosen)
        plan = make_plan("slicewise", batch_labeled=2, batch_unlabeled=2)
        networks = NetworkPair.from_plan(plan)
        labels = torch.ones(4, *plan.patch_size, dtype=torch.long)
        features = tuple(network.features(batch_of(plan)["image"]) for network in (networks.cnn, networks.transformer))
        MultiScaleContrast(plan, networks, balance_anchors=balanced)(features, (labels, labels))
        assert asked == [plan.num_classes * balanced] * len(plan.contrast)


@pytest.mark.parametrize("kind", KINDS)
def test_the_paper_s_contrast_gets_the_other_network_s_labels(kind):
    plan, module = build(kind, PaperMCSC)
    batch, seen = batch_of(plan), []
    module.contrast.forward = lambda features, labels: seen.append(labels) or []
    module.eval()(batch, 1.0)
    cnn, transformer = (network(batch["image"]).argmax(1) for network in (module.cnn, module.transformer))
    (for_cnn, for_transformer), truth = seen[0], batch["label"][:, 0]
    assert torch.equal(for_cnn, torch.cat((truth, transformer[2:])))
    assert torch.equal(for_transformer, torch.cat((truth, cnn[2:])))
    assert not torch.equal(for_cnn, for_transformer)


def dice_loss(probability, labels):
    """By loops over classes, of ``(B, C, voxels)`` and ``(B, voxels)``."""
    losses = []
    for c in range(probability.shape[1]):
        p, y = probability[:, c], labels == c
        losses.append(1 - (2 * (p * y).sum() + 1e-5) / ((p**2).sum() + y.sum() + 1e-5))
    return np.mean(losses)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", (CrossTeaching, PaperMCSC))
def test_each_network_is_taught_by_the_other(kind, method):
    plan, module = build(kind, method)
    batch = batch_of(plan)
    terms = module.eval()(batch, 1.0)
    one, two = (
        network(batch["image"][2:]).detach().double().softmax(1).flatten(2).numpy()
        for network in (module.cnn, module.transformer)
    )
    assert terms["cross_cnn"].item() == pytest.approx(0.1 * dice_loss(one, two.argmax(1)), rel=1e-4)
    assert terms["cross_transformer"].item() == pytest.approx(0.1 * dice_loss(two, one.argmax(1)), rel=1e-4)


def test_ramp_half_way_up():
    """``0.1 exp(-5 (1 - 1 / 2)^2) = 0.1 exp(-1.25)`` of the paper's ramp, full at 0.75, and SSL4MIS's, full at the end."""
    for method, end in ((PaperMCSC, 0.75), (CrossTeaching, 1.0)):
        plan, module = build("slicewise", method)
        full, half = (module.eval()(batch_of(plan), progress)["cross_cnn"].item() for progress in (end, end / 2))
        assert half / full == pytest.approx(np.exp(-1.25), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
class TestMCSC:
    def test_ships_the_moving_average(self, kind):
        _, module = build(kind, MCSC)
        assert module.shipped is module.cnn_teacher.network
        assert module.branches() == {
            "cnn": module.cnn_teacher.network,
            "transformer": module.transformer_teacher.network,
        }

    def test_networks_learn_on_a_strong_view_of_what_the_teacher_saw(self, kind):
        plan, module = build(kind, MCSC)
        confident(module).box_share = (0.0, 0.0)  # no boxes
        module.mistakes_so_far = (1e-3, 1e9)  # the CNN's teacher teaches
        batch, shown = batch_of(plan), []
        module.cnn_teacher.network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
        image, target = module.strong_view(batch["image"][:2], batch["label"], batch["image"][2:])
        assert torch.equal(shown[0], batch["image"][2:])
        assert torch.equal(target, module.cnn_teacher(shown[0]).argmax(1, keepdim=True))
        assert not torch.allclose(image[2:], shown[0])

    @pytest.mark.parametrize(("mistakes", "cnn_teaches"), [((1e-3, 1e9), 1), ((1e9, 1e-3), 0)])
    def test_it_watches_its_pseudo_labels_and_who_made_them(self, kind, mistakes, cnn_teaches):
        plan, module = build(kind, MCSC)
        module.mistakes_so_far = mistakes
        batch = batch_of(plan)
        teacher = (module.transformer_teacher, module.cnn_teacher)[cnn_teaches]
        foreground = (teacher(batch["image"][2:]).argmax(1) > 0).float().mean()
        for confidence, sure in ((0.0, 1.0), (1.1, 0.0)):
            module.confidence = confidence
            module(batch, 1.0)
            told = {name: float(value) for name, value in module.watched.items()}
            assert told["confident"] == sure and told["cnn_teaches"] == cnn_teaches
            assert told["confident_foreground"] == pytest.approx(sure * float(foreground))

    def test_the_contrast_gets_true_labels_and_those_of_the_strong_view(self, kind):
        plan, module = build(kind, MCSC)
        views, seen = [], []
        strong_view = confident(module).strong_view
        module.strong_view = lambda *parts: views.append(strong_view(*parts)) or views[0]
        module.contrast.forward = lambda features, labels: seen.append(labels) or []
        batch = batch_of(plan)
        module(batch, 1.0)
        for labels in seen[0]:
            assert torch.equal(labels, torch.cat((batch["label"], views[0][1]))[:, 0])


def test_defaults_are_those_of_the_documents():
    paper, default = build("slicewise", PaperMCSC)[1], build("slicewise", MCSC)[1]
    assert (paper.weight, paper.rampup, paper.contrast_weight, paper.contrast_unlabeled_from) == (
        0.1,
        0.75,
        0.002,
        0.075,
    )
    assert (default.weight, default.rampup, default.contrast_weight, default.confidence) == (0.5, 0.4, 0.01, 0.9)
    assert (default.copy_paste, default.box_share, default.cnn_teacher.decay) == (0.5, (0.1, 0.5), 0.99)
    assert default.contrast.temperature == paper.contrast.temperature == 0.1
    train, overlay = ConfigParser(), ConfigParser()
    train.read_config(str(CONFIGS / "train.yaml"))
    overlay.read_config(str(CONFIGS / "method_mcsc_paper.yaml"))
    assert train["method"]["contrast"]["balance_anchors"] is True
    assert "balance_anchors" not in overlay["method"]["contrast"] and not paper.contrast.balance_anchors
    given = {"_target_", "_requires_", "networks", "loss", "contrast"}  # and no default overruled but one
    assert (
        set(train["method"]) == {*given, "deep_supervision"}
        and train["method"]["deep_supervision"] == "@deep_supervision"
    )
    assert set(overlay["method"]) == given  # the paper has no deep supervision


@pytest.mark.parametrize("overlay", ("supervised", "cross_teaching", "cps", "mean_teacher", "uamt"))
def test_rivals_are_supervised_as_deeply_as_the_default(overlay):
    merged = ConfigParser()
    merged.read_config([str(CONFIGS / "train.yaml"), str(CONFIGS / f"method_{overlay}.yaml")])
    assert merged["method"]["deep_supervision"] == "@deep_supervision" and merged["deep_supervision"] is True


@pytest.mark.parametrize("rival", ("cross_teaching", "cps", "mean_teacher", "uamt", "urpc"))
def test_overlays_keep_the_published_ratio_of_the_losses(rival):
    """SSL4MIS: 0.1 beside 0.5 (CE + Dice); the overlays' supervised loss is CE + Dice."""
    merged = ConfigParser()
    merged.read_config([str(CONFIGS / "train.yaml"), str(CONFIGS / f"method_{rival}.yaml")])
    assert merged["method"]["weight"] == 2 * 0.1
    assert merged["method"]["loss"] == "@loss" and merged["loss"]["_target_"].endswith(".nnunet_loss")
