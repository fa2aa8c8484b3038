"""Laws every method keeps, in 2-D and 3-D."""

import copy
import io
import math

import pytest
import torch
from torch.nn import functional as F

from mcsc_bundle.methods import BCP, CPS, MCSC, UAMT, URPC, CrossTeaching, MeanTeacher, PaperMCSC, Supervised
from mcsc_bundle.methods.ema import EMATeacher
from mcsc_bundle.methods.mcsc_paper import crossed_labels
from mcsc_bundle.methods.readback import ReadBack
from mcsc_bundle.networks import NetworkPair
from mcsc_bundle.outputs import Classes
from tests.mcsc_bundle.methods.cases import (
    METHODS,
    SUPERVISED_TERMS,
    batch_of,
    build,
    confident,
    moved_by,
    names_of_trained,
)

DIMENSIONS = ("slicewise", "3d")


@pytest.mark.parametrize("kind", (*DIMENSIONS, "anisotropic"))
@pytest.mark.parametrize("method", METHODS)
class TestLossOfEveryMethod:
    def test_terms_are_finite_scalars(self, kind, method):
        plan, module = build(kind, method)
        for progress in (0.0, 0.5, 1.0):
            for name, term in module(batch_of(plan), progress).items():
                assert term.shape == () and torch.isfinite(term), name

    def test_each_term_alone_moves_a_trained_network_and_never_a_teacher(self, kind, method):
        plan, module = build(kind, method)
        by_unlabeled = set()
        for name, term in confident(module)(batch_of(plan), 1.0).items():
            moved = moved_by(module, term)
            assert moved & names_of_trained(module), name
            assert not any("teacher" in part for part in moved), name
            if not name.startswith(SUPERVISED_TERMS):
                by_unlabeled |= moved
        assert by_unlabeled >= names_of_trained(module) or method is Supervised

    @pytest.mark.parametrize("progress", (0.0, 1.0))
    def test_all_terms_together_reach_every_trained_parameter(self, kind, method, progress):
        """DDP hangs or raises on a parameter without gradient."""
        plan, module = build(kind, method)
        sum(confident(module)(batch_of(plan), progress).values()).backward()
        still = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not still


@pytest.mark.parametrize("kind", DIMENSIONS)
@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_reads_the_images_and_the_labels_of_the_labelled_patches_and_nothing_else(self, kind, method):
        class Recorded(dict):
            def __getitem__(self, key):
                read.add(key)
                return super().__getitem__(key)

        read = set()
        plan, module = build(kind, method)
        batch = batch_of(plan)
        assert len(batch["image"]) == 4 and len(batch["label"]) == 2  # no label of the others exists
        module(Recorded(batch, label_of_the_others=torch.zeros(0)), 1.0)
        assert read == {"image", "label"}

    def test_state_round_trips_through_a_file(self, kind, method):
        plan, module = build(kind, method)
        optimizer = torch.optim.SGD(module.parameter_groups(0.1))
        for step in range(2):  # the teacher is then neither the student nor its copy
            optimizer.zero_grad()
            sum(module(batch_of(plan, seed=step), 0.5).values()).backward()
            optimizer.step()
            module.after_step(0.5)
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        _, other = build(kind, method, seed=1)
        other.load_state_dict(torch.load(file, weights_only=True))
        losses = []
        for each in (module, other):
            torch.manual_seed(5)
            losses.append(sum(each(batch_of(plan), 0.5).values()))
            each.after_step(0.5)
        assert torch.equal(*losses)
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))

    def test_without_unlabelled_patches_it_still_trains(self, kind, method):
        plan, module = build(kind, method)
        loss = sum(module(batch_of(plan, unlabeled=0), 0.5).values())
        loss.backward()
        assert torch.isfinite(loss)

    def test_the_shipped_network_is_the_plan_s_and_one_of_the_branches(self, kind, method):
        plan, module = build(kind, method)
        assert module.branches()["cnn"] is module.shipped
        assert module.shipped.state_dict().keys() == build(kind, METHODS[0])[1].cnn.state_dict().keys()
        shape = (1, plan.num_classes, *plan.patch_size)
        assert all(network(batch_of(plan)["image"][:1]).shape == shape for network in module.branches().values())


@pytest.mark.parametrize("kind", DIMENSIONS)
@pytest.mark.parametrize("method", (UAMT, CrossTeaching, CPS, URPC, PaperMCSC, MCSC))
def test_unlabelled_weight_ramps_up(kind, method):
    plan, module = build(kind, method)
    confident(module)
    values = []
    for progress in (0.0, 1.0):
        torch.manual_seed(0)
        terms = module(batch_of(plan), progress)
        ramped = [v.item() for name, v in terms.items() if not name.startswith((*SUPERVISED_TERMS, "contrast"))]
        values.append(sum(ramped))
    assert values[0] / values[1] == pytest.approx(torch.exp(torch.tensor(-5.0)).item(), rel=1e-3)


def test_mean_teacher_has_no_consistency_at_first():
    plan, module = build("3d", MeanTeacher)
    assert float(module(batch_of(plan), 0.0)["consistency"].detach()) == 0


@pytest.mark.parametrize("kind", DIMENSIONS)
def test_bcp_does_not_look_at_unlabelled_patches_in_pretraining(kind):
    plan, module = build(kind, BCP)
    batch = batch_of(plan)
    losses = []
    for image in (batch["image"], torch.cat((batch["image"][:2], torch.full_like(batch["image"][2:], torch.nan)))):
        torch.manual_seed(0)
        terms = module({"image": image, "label": batch["label"]}, 0.0)
        assert terms.keys() == {"labeled_inside", "labeled_outside"}
        losses.append(sum(terms.values()))
    assert torch.equal(*losses)
    assert "unlabeled_inside" in module(batch, module.pretraining)


def test_cross_labels_cross_over():
    one, two = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    one[:, 1], two[:, 2] = 1, 1  # the CNN says 1 everywhere, the Transformer 2
    for_cnn, for_transformer = crossed_labels((one, two), torch.zeros(1, 1, 2, 2), Classes())
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

    def test_statistics_of_normalisation_are_the_student_s(self):
        student = torch.nn.BatchNorm1d(1, momentum=1.0)
        teacher = EMATeacher(student, decay=0.75)
        student(torch.tensor([[1.0], [3.0]]))
        teacher.update(student)
        assert teacher.network.running_mean.item() == 2.0 and teacher.network.num_batches_tracked.item() == 1

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
        image, target = module.strong_view(batch["image"][:2], batch["label"], batch["image"][2:])
        assert torch.equal(image[:2], batch["image"][:2]) and target.shape == (2, 1, *plan.patch_size)

    def test_boxes_of_labelled_patches_bring_their_true_labels(self):
        plan, module = build("3d", MCSC)
        module.confidence, module.copy_paste, module.box_share = 2.0, 1.0, (1.0, 1.0)  # no teacher label, box = patch
        batch = batch_of(plan)
        _, target = module.strong_view(batch["image"][:2], batch["label"], batch["image"][2:])
        inside = target != -1
        assert inside.float().mean() > 0.3 and torch.equal(target[inside], batch["label"][inside])

    def test_unsure_voxels_are_ignored(self):
        plan, module = build("3d", MCSC)
        module.confidence, module.copy_paste = 2.0, 0.0
        batch = batch_of(plan)
        assert (module.strong_view(batch["image"][:2], batch["label"], batch["image"][2:])[1] == -1).all()


def test_the_network_that_knows_the_labelled_patches_better_teaches_more_often():
    _, method = build("2d", MCSC)
    assert isinstance(method, MCSC)
    method.mistakes_so_far = (0.2, 0.4)  # chances 25 : 6.25
    torch.manual_seed(0)
    drawn = [method.teacher() is method.cnn_teacher for _ in range(2000)]
    assert abs(sum(drawn) / 2000 - 0.8) < 0.03
    method._latest = ReadBack(torch.tensor([1.2, 0.4]))
    method.after_step(0.5)
    assert method.mistakes_so_far == pytest.approx((0.25, 0.4))


def test_the_running_losses_are_those_of_the_step():
    plan, method = build("2d", MCSC)
    batch = batch_of(plan)
    image, label = batch["image"][:2], batch["label"][:, 0].long()
    known = [F.cross_entropy(network(image), label).item() for network in (method.cnn, method.transformer)]
    method(batch, 0.0)
    method.after_step(0.0)
    assert method.mistakes_so_far == pytest.approx([0.95 + 0.05 * loss for loss in known], rel=1e-3)
    assert copy.deepcopy(method).mistakes_so_far == method.mistakes_so_far


def test_absent_classes_do_not_hide_who_knows_better():
    """Fourteen classes of which two are there: one network is right with 99 % confidence, the other with 60 %."""
    _, method = build("2d", MCSC)
    target = torch.zeros(2, 1, 8, 8, dtype=torch.long)
    target[..., :4] = 5
    truth = F.one_hot(target[:, 0], 14).movedim(-1, 1).float()
    sure, unsure = (torch.log(truth * share + (1 - truth) * (1 - share) / 13) for share in (0.99, 0.6))
    assert method.mistakes((sure, unsure), target).tolist() == pytest.approx(
        [-math.log(0.99), -math.log(0.6)], rel=1e-4
    )


def test_the_baseline_can_ship_its_moving_average():
    """By hand after two updates with decay 0.99: the first copies, the second keeps a half (1 - 1 / 2)."""
    plan, plain = build("2d", Supervised)
    method = Supervised(NetworkPair.from_plan(plan), plain.supervision.loss, decay=0.99)
    assert plain.shipped is plain.cnn and method.shipped is not method.cnn
    first = next(method.cnn.parameters())
    seen = []
    for _ in range(2):
        torch.nn.init.normal_(first)
        seen.append(first.detach().clone())
        method.after_step(0.5)
    assert torch.allclose(next(method.shipped.parameters()), (seen[0] + seen[1]) / 2, atol=1e-6)
    assert all(
        id(p) not in {id(p) for p in method.shipped.parameters()}
        for g in method.parameter_groups(1e-3)
        for p in g["params"]
    )


@pytest.mark.parametrize("method", (MCSC, PaperMCSC))
def test_compiled_networks_teachers_and_contrast_change_nothing(method):
    plan, module = build("slicewise", method)
    torch.manual_seed(0)
    eager = confident(module)(batch_of(plan), 0.5)
    module.compile_networks(backend="eager")
    teachers = [part.network for part in module.modules() if isinstance(part, EMATeacher)]
    assert "forward" in vars(module.contrast) and all("features" in vars(each) for each in teachers)
    torch.manual_seed(0)
    compiled = confident(module)(batch_of(plan), 0.5)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
