"""Laws every method keeps, in 2-D and 3-D."""

import pytest
import torch

from mcsc_bundle.losses.segmentation import nnunet_loss
from mcsc_bundle.methods import MCSC, CrossTeaching, MeanTeacher, MultiScaleContrast, PaperMCSC, Supervised
from mcsc_bundle.methods.ema import EMATeacher
from mcsc_bundle.networks import NetworkPair
from tests.plans import make_plan

DIMENSIONS = ("slicewise", "3d", "anisotropic")
METHODS = (Supervised, MeanTeacher, CrossTeaching, PaperMCSC, MCSC)


def build(kind, method, seed=0):
    plan = make_plan(kind, batch_labeled=2, batch_unlabeled=2)
    torch.manual_seed(seed)
    networks = NetworkPair.from_plan(plan)
    extra = {"contrast": MultiScaleContrast(plan, networks)} if issubclass(method, PaperMCSC) else {}
    return plan, method(networks, nnunet_loss(), **extra)


def batch_of(plan, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, plan.num_classes, (2, 1, *plan.patch_size), generator=generator)
    return {"image": torch.randn(4, 1, *plan.patch_size, generator=generator), "label": label}


def confident(method):
    """A teacher that has not learnt yet is never sure; take whatever it says."""
    if isinstance(method, MCSC):
        method.confidence = 0.0
    return method


@pytest.mark.parametrize("kind", DIMENSIONS)
@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_terms_are_finite_scalars(self, kind, method):
        plan, module = build(kind, method)
        for progress in (0.0, 0.5, 1.0):
            for name, term in module(batch_of(plan), progress).items():
                assert term.shape == () and torch.isfinite(term), name

    def test_each_unsupervised_term_alone_moves_a_network_and_never_a_teacher(self, kind, method):
        plan, module = build(kind, method)
        terms = confident(module)(batch_of(plan), 1.0)
        for name, term in terms.items():
            module.zero_grad()
            term.backward(retain_graph=True)
            moved = {
                n
                for n, net in module.named_children()
                if any(p.grad is not None and p.grad.any() for p in net.parameters())
            }
            assert moved & {"cnn", "transformer"}, name
            assert not any("teacher" in n for n in moved), name

    def test_all_terms_together_move_every_trained_parameter(self, kind, method):
        plan, module = build(kind, method)
        sum(confident(module)(batch_of(plan), 1.0).values()).backward()
        still = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not still

    def test_state_round_trips(self, kind, method):
        plan, module = build(kind, method)
        _, other = build(kind, method, seed=1)
        module.after_step(0.0)
        other.load_state_dict(module.state_dict())
        results = []
        for each in (module, other):
            torch.manual_seed(5)
            results.append(sum(each(batch_of(plan), 0.5).values()))
        assert torch.equal(*results)

    def test_without_unlabelled_patches_it_still_trains(self, kind, method):
        plan, module = build(kind, method)
        batch = batch_of(plan)
        loss = sum(module({"image": batch["image"][:2], "label": batch["label"]}, 0.5).values())
        loss.backward()
        assert torch.isfinite(loss)


@pytest.mark.parametrize("method", (CrossTeaching, PaperMCSC, MCSC))
def test_unlabelled_weight_ramps_up(method):
    plan, module = build("3d", method)
    confident(module)
    values = []
    for progress in (0.0, 1.0):
        torch.manual_seed(0)
        terms = module(batch_of(plan), progress)
        values.append(sum(v.item() for name, v in terms.items() if name.startswith(("cross", "strong"))))
    assert values[0] / values[1] == pytest.approx(torch.exp(torch.tensor(-5.0)).item(), rel=1e-3)


def test_mean_teacher_has_no_consistency_at_first():
    plan, module = build("3d", MeanTeacher)
    assert float(module(batch_of(plan), 0.0)["consistency"].detach()) == 0


def test_cross_labels_cross_over():
    from mcsc_bundle.methods.mcsc_paper import crossed_labels

    one, two = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    one[:, 1], two[:, 2] = 1, 1  # the CNN says 1 everywhere, the Transformer 2
    for_cnn, for_transformer = crossed_labels((one, two), torch.zeros(1, 1, 2, 2))
    assert for_cnn[0].unique() == 0 == for_transformer[0].unique()  # ground truth on the labelled image
    assert for_cnn[1].unique() == 2 and for_transformer[1].unique() == 1


def test_paper_contrast_waits_with_unlabelled_features():
    plan, module = build("3d", PaperMCSC)
    seen = []
    module.contrast.forward = lambda features, labels: seen.append(len(labels[0])) or []
    module(batch_of(plan), 0.0)
    module(batch_of(plan), 0.5)
    assert seen == [2, 4]


class TestEMATeacher:
    def test_first_update_copies_then_averages(self):
        student = torch.nn.Linear(1, 1, bias=False)
        teacher = EMATeacher(student, decay=0.75)
        student.weight.data.fill_(4.0)
        teacher.update(student)
        assert teacher.network.weight.item() == 4.0
        student.weight.data.fill_(0.0)
        teacher.update(student)  # a = min(1 - 1/2, 0.75)
        assert teacher.network.weight.item() == 2.0

    def test_never_in_train_mode(self):
        teacher = EMATeacher(torch.nn.Dropout())
        assert not torch.nn.Sequential(teacher).train()[0].network.training

    def test_refuses_a_decay_of_one(self):
        with pytest.raises(ValueError, match=r"in \[0, 1\)"):
            EMATeacher(torch.nn.Linear(1, 1), decay=1.0)


class TestStrongView:
    def test_labelled_part_passes_through(self):
        plan, module = build("3d", MCSC)
        batch = batch_of(plan)
        image, target = module.strong_view(batch["image"][:2], batch["label"][:, 0], batch["image"][2:])
        assert torch.equal(image[:2], batch["image"][:2]) and target.shape == (2, *plan.patch_size)

    def test_boxes_of_labelled_patches_bring_their_true_labels(self):
        plan, module = build("3d", MCSC)
        module.confidence, module.copy_paste, module.box_share = 2.0, 1.0, (1.0, 1.0)  # no teacher label, box = patch
        batch = batch_of(plan)
        _, target = module.strong_view(batch["image"][:2], batch["label"][:, 0], batch["image"][2:])
        inside = target != -1
        assert inside.float().mean() > 0.3 and torch.equal(target[inside], batch["label"][:, 0][inside])

    def test_unsure_voxels_are_ignored(self):
        plan, module = build("3d", MCSC)
        module.confidence, module.copy_paste = 2.0, 0.0
        batch = batch_of(plan)
        assert (module.strong_view(batch["image"][:2], batch["label"][:, 0], batch["image"][2:])[1] == -1).all()
