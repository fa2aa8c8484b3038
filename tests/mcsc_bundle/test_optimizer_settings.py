"""What the trainer does with the optimizer it is given, and with that of a checkpoint."""

import pytest
import torch

from mcsc_bundle.methods import Supervised
from mcsc_bundle.trainer import MCSCTrainer, polynomial
from tests.mcsc_bundle.test_trainer import kill, trainer, weights


def test_another_learning_rate_takes_effect_on_resume_and_is_named(tmp_path, caplog):
    trainer(tmp_path, method=Supervised, lr=1e-3).run()
    caplog.clear()
    again = trainer(tmp_path, method=Supervised, lr=1e-2, max_epochs=4)
    again.run()
    assert "lr: going on with 0.01; the epochs before ran with 0.001." in caplog.messages
    rates = [float(line.split(",")[3]) for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert rates[2:] == pytest.approx([1e-2 * polynomial(step / 12) for step in (8, 11)])


def test_adam_gets_fused_kernels_unless_it_was_made_with_others():
    def kernels(optimizer, **kwargs):
        engine = trainer()
        engine = MCSCTrainer(
            "cpu", 1, engine.data_loader, engine.method, optimizer(engine.method.parameters(), lr=1e-3, **kwargs), 1
        )
        return engine.optimizer.param_groups[0].get("fused")

    assert kernels(torch.optim.AdamW) is True and kernels(torch.optim.Adam) is True
    assert not kernels(torch.optim.AdamW, foreach=True) and not kernels(torch.optim.AdamW, foreach=False)
    assert kernels(torch.optim.AdamW, fused=False) is False and kernels(torch.optim.RMSprop) is None


def test_an_optimizer_with_fused_kernels_goes_on_from_one_without(tmp_path, caplog):
    def engine(folder, fused):
        made = trainer(tmp_path / folder)
        for group in made.optimizer.param_groups:
            group["fused"] = fused
        return made

    kill(engine("a", None), stop_at=5)
    resumed, whole = engine("a", True), engine("b", None)
    resumed.run()
    whole.run()
    assert resumed.optimizer.param_groups[0]["fused"] is True
    assert not [message for message in caplog.messages if "going on with" in message]
    apart = (weights(resumed) - weights(whole)).norm()  # Adam turns the rounding of a gradient near 0 into a step
    assert apart < 1e-4 * weights(whole).norm()


def test_the_same_settings_are_resumed_without_a_word(tmp_path, caplog):
    trainer(tmp_path).run()
    trainer(tmp_path, max_epochs=3).run()
    assert not [message for message in caplog.messages if "going on with" in message]
