"""The trainer: learns, resumes to the same weights, skips what is not finite, clips after unscaling."""

import pytest
import torch
from ignite.engine import Events
from torch import nn

from mcsc_bundle.augmentation import PatchAugmentation
from mcsc_bundle.data import TwoStreamDataset, TwoStreamLoader
from mcsc_bundle.handlers import CheckpointHandler, save_atomically
from mcsc_bundle.logs import LossLog
from mcsc_bundle.losses.segmentation import nnunet_loss
from mcsc_bundle.methods import MCSC, MultiScaleContrast, Supervised
from mcsc_bundle.methods.base import Method
from mcsc_bundle.networks import NetworkPair
from mcsc_bundle.plan import CNNPlan
from mcsc_bundle.trainer import CheckpointError, MCSCTrainer, NonFiniteLossError, polynomial
from tests.mcsc_bundle.memory_store import MemoryStore
from tests.plans import make_plan


def trainer(folder=None, kind="slicewise", method=MCSC, max_epochs=2, epoch_length=3, network=None, lr=1e-3, **kwargs):
    plan = make_plan(kind)
    store = MemoryStore(plan)
    loader = TwoStreamLoader(TwoStreamDataset(store.items, plan, store, PatchAugmentation(plan)))
    torch.manual_seed(0)
    networks = NetworkPair.from_plan(plan)
    extra = {"contrast": MultiScaleContrast(plan, networks)} if method is MCSC else {}
    module = network or method(networks, nnunet_loss(), **extra)
    handlers = [CheckpointHandler(folder / "models"), LossLog(folder)] if folder else []
    return MCSCTrainer(
        "cpu",
        max_epochs,
        loader,
        module,
        torch.optim.AdamW(module.parameter_groups(lr)),
        epoch_length,
        train_handlers=handlers,
        **kwargs,
    )


def weights(engine):
    return nn.utils.parameters_to_vector(engine.method.parameters())


def press_ctrl_c(engine):
    raise KeyboardInterrupt


class Interrupted(Exception):
    pass


def test_loss_falls(tmp_path):
    engine = trainer(tmp_path, method=Supervised, max_epochs=8, epoch_length=8, lr=1e-2)
    engine.run()
    losses = [float(line.split(",")[5]) for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.7 * losses[0]


def kill(engine, stop_at):
    """Run up to an iteration and no further."""

    def stop(_):
        raise Interrupted

    engine.add_event_handler(Events.ITERATION_COMPLETED(once=stop_at), stop)
    with pytest.raises(Interrupted):
        engine.run()


@pytest.mark.parametrize("stop_at", (1, 4, 5))
def test_resume_equals_uninterrupted(tmp_path, stop_at):
    whole = trainer(tmp_path / "whole")
    whole.run()
    kill(trainer(tmp_path / "killed"), stop_at)
    resumed = trainer(tmp_path / "killed")
    resumed.run()
    assert torch.equal(weights(whole), weights(resumed))
    logs = [
        [row.split(",")[:2] for row in (tmp_path / name / "log.csv").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]


def test_a_finished_run_stays_as_it_is(tmp_path):
    trainer(tmp_path).run()
    again = trainer(tmp_path)
    again.run()
    assert torch.equal(weights(again), weights_of_checkpoint(tmp_path, again))


def weights_of_checkpoint(folder, engine):
    state = torch.load(folder / "models" / "checkpoint.pt", weights_only=True)
    engine.method.load_state_dict(state["method"])
    return weights(engine)


def test_extending_a_finished_run_goes_on(tmp_path):
    trainer(tmp_path, max_epochs=1).run()
    longer = trainer(tmp_path, max_epochs=2)
    longer.run()
    assert longer.state.epoch == 2


def test_model_file_is_the_shipped_network(tmp_path):
    engine = trainer(tmp_path)
    engine.run()
    engine.method.shipped.load_state_dict(torch.load(tmp_path / "models" / "model.pt", weights_only=True))


class Exploding(Method):
    """Gives a loss that is not finite at chosen calls."""

    def __init__(self, bad):
        nn.Module.__init__(self)
        self.weight, self.bad, self.calls = nn.Parameter(torch.ones(())), bad, 0

    def forward(self, batch, progress):
        self.calls += 1
        return {"loss": self.weight * (float("nan") if self.calls in self.bad else 1.0)}


def test_one_bad_step_is_skipped_and_counted():
    engine = trainer(network=Exploding({2}))
    engine.run()
    assert engine.nonfinite_steps == 1 and torch.isfinite(engine.method.weight)


def test_an_overflow_is_forgotten_with_its_step(monkeypatch):
    cleaned = []
    monkeypatch.setattr("mcsc_bundle.trainer.forget_overflow", cleaned.append)
    engine = trainer(network=Exploding({2}))
    engine.run()
    assert cleaned == [engine.method]


def test_many_bad_steps_in_a_row_stop_with_a_message():
    engine = trainer(network=Exploding(set(range(99))), max_nonfinite=3)
    with pytest.raises(NonFiniteLossError, match="3 non-finite steps in a row up to iteration 3"):
        engine.run()


def test_gradients_are_clipped():
    engine = trainer(network=Exploding(set()), grad_clip=0.1, max_epochs=1, epoch_length=1)
    engine.run()
    assert engine.method.weight.grad.item() == pytest.approx(0.1, rel=1e-3)


def test_other_epoch_length_is_refused_on_resume(tmp_path):
    trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="epoch_length: expected 3"):
        trainer(tmp_path, epoch_length=4).run()


def test_deep_supervision_is_named_where_a_checkpoint_is_of_a_training_without(tmp_path):
    def started(deep):
        stages = CNNPlan("plan", (4, 6, 8, 8), ((3, 3),) * 4, ((1, 1), (2, 2), (2, 2), (2, 2)), convs_per_stage=1)
        networks = NetworkPair.from_plan(make_plan("slicewise", cnn=stages))
        return trainer(tmp_path, network=Supervised(networks, nnunet_loss(), deep_supervision=deep))

    started(False).run()
    with pytest.raises(CheckpointError, match=r"expected False as .*, received True\. Give --deep_supervision False"):
        started(True).run()


def test_other_method_is_refused_on_resume_without_a_traceback(tmp_path):
    trainer(tmp_path).run()
    with pytest.raises(SystemExit, match="method: expected MCSC as in the checkpoint, received Supervised"):
        trainer(tmp_path, method=Supervised, max_epochs=3).run_or_exit()


@pytest.mark.parametrize("words", ["CUDA out of memory", "another error"])
def test_a_full_gpu_ends_with_a_sentence_and_nothing_else_does(tmp_path, words):
    full = trainer(tmp_path)

    def fail():
        raise (torch.OutOfMemoryError if "memory" in words else RuntimeError)(words)

    full.add_event_handler(Events.ITERATION_COMPLETED(once=2), fail)
    with pytest.raises(SystemExit if "memory" in words else RuntimeError, match=words):
        full.run_or_exit()


def test_ctrl_c_ends_with_a_sentence_and_goes_on_to_the_same_weights(tmp_path, capsys):
    whole = trainer(tmp_path / "whole")
    whole.run()
    stopped = trainer(tmp_path / "stopped")
    stopped.add_event_handler(Events.ITERATION_COMPLETED(once=5), press_ctrl_c)
    with pytest.raises(SystemExit) as end:
        stopped.run_or_exit()
    assert end.value.code == 130
    path = tmp_path / "stopped" / "models" / "checkpoint.pt"
    assert capsys.readouterr().err == f"\nStopped in epoch 2; the same command goes on after epoch 1, from {path}.\n"
    again = trainer(tmp_path / "stopped")
    again.run_or_exit()
    assert torch.equal(weights(again), weights(whole))


def test_ctrl_c_before_the_first_checkpoint_promises_nothing(tmp_path, capsys):
    stopped = trainer(tmp_path)
    stopped.add_event_handler(Events.ITERATION_COMPLETED(once=2), press_ctrl_c)
    with pytest.raises(SystemExit):
        stopped.run_or_exit()
    assert "Stopped in epoch 1; the same command starts anew" in capsys.readouterr().err


def test_ctrl_c_while_a_file_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    save_atomically({"a": 1}, tmp_path / "file.pt")

    def half(content, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("mcsc_bundle.handlers.torch.save", half)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"a": 2}, tmp_path / "file.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["file.pt"]
    assert torch.load(tmp_path / "file.pt", weights_only=True) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"half of it", b"<html>an error page</html>", None])
def test_a_damaged_checkpoint_ends_with_a_message(tmp_path, content):
    trainer(tmp_path).run()
    path = tmp_path / "models" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(SystemExit, match=r"checkpoint\.pt: .* damaged.*Delete it to train anew"):
        trainer(tmp_path, max_epochs=3).run_or_exit()


def test_a_checkpoint_without_a_scaler_serves_a_training_that_needs_one(tmp_path):
    trainer(tmp_path).run()
    state = torch.load(tmp_path / "models" / "checkpoint.pt", weights_only=True)
    assert state["scaler"] == {}
    other = trainer(tmp_path / "other", max_epochs=3)
    other.grad_scaler = torch.amp.GradScaler("cpu", enabled=True)
    other.load_training_state(state)
    assert other.state.epoch == 2


def test_checkpoint_of_other_cases_is_refused(tmp_path):
    trainer(tmp_path).run()
    other = trainer(max_epochs=3)
    CheckpointHandler(tmp_path / "models", training_key="other cases").attach(other)
    with pytest.raises(SystemExit, match="expected a training on these cases and labels, received one on others"):
        other.run_or_exit()


def test_accumulated_steps_equal_one_large_one():
    """Also where the end of an epoch leaves one of three for the last: the loss is the weight, so its gradient is 1."""
    method = Counting()
    trainer(network=method, max_epochs=2, epoch_length=4, accumulation_steps=3, grad_clip=None).run()
    assert method.gradients == pytest.approx([1, 1, 1, 1])


class Counting(Exploding):
    def __init__(self):
        super().__init__(set())
        self.gradients = []

    def after_step(self, progress):
        self.gradients.append(float(self.weight.grad))


@pytest.mark.parametrize(
    ("progress", "warmup", "expected"),
    [
        (0, 0, 1),
        (1, 0, 0),
        (0.5, 0, 0.5**0.9),
        (0, 0.1, 0.001),
        (0.05, 0.1, 0.5005),
        (0.1, 0.1, 1),
        (0.55, 0.1, 0.5**0.9),
    ],
)
def test_schedule(progress, warmup, expected):
    assert polynomial(progress, warmup) == pytest.approx(expected)


def test_amp_is_off_on_a_cpu():
    assert trainer(amp=True).autocast_dtype is None


def test_an_unknown_amp_dtype_is_refused_by_name():
    with pytest.raises(SystemExit, match="amp_dtype: expected bfloat16, float16, float32, received 'bf61'"):
        trainer(amp=True, amp_dtype="bf61")


def test_bf16_on_a_cpu_has_to_be_asked_for_and_stays_near_fp32(tmp_path):
    losses = {}
    for name, options in (("fp32", {}), ("bf16", {"amp": True, "amp_dtype": "bfloat16"})):
        engine = trainer(tmp_path / name, max_epochs=1, epoch_length=2, **options)
        engine.run()
        losses[name] = torch.stack(list(engine.state.output["terms"].values()))
        assert torch.isfinite(weights(engine)).all()
    assert not torch.equal(losses["bf16"], losses["fp32"])
    torch.testing.assert_close(losses["bf16"].float(), losses["fp32"], rtol=0.1, atol=0.02)


def test_another_seed_is_followed_and_named(tmp_path, caplog):
    trainer(tmp_path, method=Supervised, seed=0).run()
    trainer(tmp_path, method=Supervised, seed=1, max_epochs=3).run()
    assert "seed: going on with 1; the epochs before ran with 0." in caplog.messages


def test_patches_that_move_otherwise_from_now_on_are_named(tmp_path, caplog):
    trainer(tmp_path, method=Supervised).run()
    again = trainer(tmp_path, method=Supervised, max_epochs=3)
    again.data_loader.dataset.leeway = 0.1
    again.run()
    assert "leeway: going on with 0.1; the epochs before ran with 0.2." in caplog.messages
