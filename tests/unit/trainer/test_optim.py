"""What an update does, and that it does nothing at all when the gradients are no numbers."""

import math

import pytest
import torch
from torch import Tensor, nn

from finetune_contract import OptimizerConfig, Precision
from finetune_trainer.optim import (
    LossScale,
    SavedScale,
    Treatment,
    Update,
    adamw,
    apply_update,
    set_learning_rate,
    treatments,
)

CPU = torch.device("cpu")


class Trained:
    """A linear layer with an optimizer that decays its weight."""

    def __init__(self, precision: Precision = Precision.FP32) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        config = OptimizerConfig(peak_learning_rate=0.1, weight_decay=0.1)
        self.optimizer = adamw(self.model, treatments(self.model, {}), config)
        self.scale = LossScale.of(precision, CPU)

    def step(self, gradient: float, max_norm: float | None = 1.0) -> Update:
        """One update with a gradient of which a single element is `gradient`, the others one."""
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter) * self.scale.scale
            parameter.grad.view(-1)[0] = gradient
        return apply_update(self.optimizer, self.scale, rate=0.1, max_norm=max_norm)

    def everything(self) -> list[Tensor]:
        """Weights, moments and the counts of updates."""
        states = [state for each in self.model.parameters() for state in self.optimizer.state[each].values()]
        return [each.detach().clone() for each in (*self.model.parameters(), *states)]


@pytest.mark.parametrize("max_norm", [1.0, None])
@pytest.mark.parametrize("gradient", [math.inf, -math.inf, math.nan])
def test_an_update_that_is_no_number_changes_no_bit(gradient: float, max_norm: float | None) -> None:
    trained = Trained()
    trained.step(1.0, max_norm)
    before = trained.everything()
    update = trained.step(gradient, max_norm)
    assert not update.applied
    assert not update.grad_norm.isfinite()
    assert all(torch.equal(old, new) for old, new in zip(before, trained.everything(), strict=True))
    assert all(each.grad is None for each in trained.model.parameters())


def test_a_run_with_a_skipped_step_equals_one_without_it() -> None:
    unbroken, broken = Trained(), Trained()
    for gradient in (1.0, 2.0):
        unbroken.step(gradient)
    for gradient in (1.0, math.nan, 2.0):
        broken.step(gradient)
    assert all(torch.equal(old, new) for old, new in zip(unbroken.everything(), broken.everything(), strict=True))


def test_an_fp16_overflow_halves_the_scale_and_the_next_step_is_the_same_update() -> None:
    fp16, fp32 = Trained(Precision.FP16), Trained()
    assert not fp16.step(math.inf).applied
    assert fp16.scale.at_rest() == SavedScale(2.0**15, 0)
    update = fp16.step(2.0**15)
    assert update.applied
    assert fp32.step(1.0).grad_norm == update.grad_norm
    assert float(update.loss_scale) == 2.0**15
    assert all(torch.equal(old, new) for old, new in zip(fp32.everything(), fp16.everything(), strict=True))


def test_the_scale_falls_no_lower_than_where_it_cannot_be_the_reason() -> None:
    scale = LossScale.of(Precision.FP16, CPU)
    for _ in range(100):
        scale.updated(torch.tensor(False))
    assert scale.at_rest() == SavedScale(LossScale.LOWEST, 0)


def test_the_scale_doubles_after_a_quiet_time_that_survives_a_checkpoint() -> None:
    scale = LossScale.of(Precision.FP16, CPU)
    for _ in range(LossScale.GROWTH_INTERVAL - 1):
        scale.updated(torch.tensor(True))
    assert scale.at_rest() == SavedScale(2.0**16, 1999)
    resumed = LossScale.of(Precision.FP16, CPU)
    resumed.take(scale.at_rest())
    resumed.updated(torch.tensor(True))
    assert float(resumed.scale) == 2.0**17


def test_other_precisions_have_a_scale_of_one_for_good() -> None:
    scale = LossScale.of(Precision.BF16, CPU)
    for applied in (False, True):
        scale.updated(torch.tensor(applied))
    assert scale.at_rest() == SavedScale(1.0, 0)


def test_norms_and_biases_do_not_decay() -> None:
    found = treatments(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), {})
    assert {name for name, treatment in found.items() if treatment.decays} == {"0.weight"}


def test_a_parameter_moves_with_its_own_rate() -> None:
    model = nn.Linear(2, 2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    treated = treatments(model, {"weight": 16.0})
    assert treated == {"weight": Treatment(decays=True, rate_factor=16.0), "bias": Treatment(decays=False)}
    optimizer = adamw(model, treated, OptimizerConfig(peak_learning_rate=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 1e-3)
    optimizer.step()  # AdamW's first update of a gradient of ones is the rate itself
    moved = {name: (before[name] - parameter).detach() for name, parameter in model.named_parameters()}
    torch.testing.assert_close(moved["weight"], torch.full((2, 2), 16e-3), atol=1e-6, rtol=0)
    torch.testing.assert_close(moved["bias"], torch.full((2,), 1e-3), atol=1e-6, rtol=0)
