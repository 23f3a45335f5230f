"""The learning rate as a function of the step, and what happens to gradients that are no numbers."""

import math

import pytest
import torch
from torch import nn

from finetune_contract import ConstantSchedule, CosineSchedule, LinearSchedule, OptimizerConfig, Precision, Schedule
from finetune_trainer.failures import NotANumberError
from finetune_trainer.optim import (
    LossScale,
    Treatment,
    adamw,
    apply_update,
    learning_rate,
    set_learning_rate,
    treatments,
)


def rates(schedule: Schedule, steps: int = 10) -> list[float]:
    return [learning_rate(step, total_steps=steps, schedule=schedule, peak=1.0) for step in range(1, steps + 1)]


def test_warm_up_rises_in_equal_parts_and_reaches_the_peak() -> None:
    assert rates(ConstantSchedule(warmup_ratio=0.3)) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)


def test_linear_falls_in_equal_parts_and_spends_no_step_on_zero() -> None:
    assert rates(LinearSchedule(warmup_ratio=0.0)) == pytest.approx([1 - step / 10 for step in range(10)])


def test_cosine_ends_near_its_final_ratio() -> None:
    found = rates(CosineSchedule(warmup_ratio=0.0, final_ratio=0.1), steps=1000)
    assert found[0] == 1.0
    assert found[500] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.1, abs=1e-4)
    assert found == sorted(found, reverse=True)


def step_with(gradient: float, scale: LossScale) -> tuple[nn.Linear, bool]:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    optimizer = adamw(model, treatments(model, {}), OptimizerConfig(peak_learning_rate=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    update = apply_update(optimizer, scale, rate=0.1, max_norm=1.0)
    assert torch.equal(before, model.weight) is not update.applied
    return model, update.applied


def test_an_infinite_gradient_stops_a_run_before_the_update() -> None:
    with pytest.raises(NotANumberError, match="gradient norm is inf"):
        step_with(math.inf, LossScale.of(Precision.BF16))


def test_an_fp16_overflow_skips_the_update_and_halves_the_scale() -> None:
    scale = LossScale.of(Precision.FP16)
    assert step_with(math.inf, scale)[1] is False
    assert scale.scale == 2.0**15
    assert step_with(1.0, scale)[1] is True
    assert scale.skips_in_a_row == 0


def test_fp16_overflows_without_end_are_not_the_scale_s_fault() -> None:
    scale = LossScale.of(Precision.FP16)
    for _ in range(LossScale.MAX_SKIPS_IN_A_ROW):
        step_with(math.nan, scale)
    with pytest.raises(NotANumberError):
        step_with(math.nan, scale)


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
