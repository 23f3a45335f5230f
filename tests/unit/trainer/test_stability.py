"""What is decided about steps that are no numbers and about a loss that rises: numbers in, decisions out."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from finetune_contract import DivergencePolicy, DivergenceRemedy, NonFinitePolicy, StabilityConfig
from finetune_trainer.loss import poisoned
from finetune_trainer.stability import (
    GiveUp,
    Rollback,
    StabilityState,
    StepResult,
    Warn,
    due,
    observed,
    rolled_back,
    tempered_norm,
    tempered_rate,
    warned,
)

DEFAULT = StabilityConfig()
SHORT = StabilityConfig(
    non_finite=NonFinitePolicy(skip_steps=2, rollbacks=1), divergence=DivergencePolicy(window_steps=8)
)


def step(loss: float, *, is_overflow: bool = False) -> StepResult:
    return StepResult(loss=loss, applied=math.isfinite(loss) and not is_overflow, is_overflow=is_overflow)


def after(losses: Iterable[float], config: StabilityConfig, state: StabilityState | None = None) -> StabilityState:
    state = state or StabilityState()
    for loss in losses:
        state = observed(state, config, step(loss))
    return state


def diverged_at(losses: Iterable[float], config: StabilityConfig = DEFAULT) -> int | None:
    """The step after which the losses count as diverged."""
    state = StabilityState()
    for number, loss in enumerate(losses, 1):
        state = observed(state, config, step(loss))
        if state.is_diverged:
            return number
    return None


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    start=st.floats(0.05, 12),
    final=st.floats(0, 1),
    spread=st.floats(0, 0.5),
    fall_steps=st.integers(1, 2000),
)
def test_falling_and_flat_losses_never_count_as_diverged(
    seed: int, start: float, final: float, spread: float, fall_steps: int
) -> None:
    """Log-normal noise of up to half the loss; small supervised batches of short rows show 0.1 to 0.3."""
    noise = np.random.default_rng(seed)
    falling = (start * (final + (1 - final) * math.exp(-number / fall_steps)) for number in range(2000))
    assert diverged_at(loss * noise.lognormal(0, spread) for loss in falling) is None


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), start=st.floats(0.05, 8), growth=st.floats(1.01, 2), spread=st.floats(0, 0.3))
def test_a_loss_that_explodes_always_counts_as_diverged(seed: int, start: float, growth: float, spread: float) -> None:
    noise = np.random.default_rng(seed)
    flat = [start * noise.lognormal(0, spread) for _ in range(100)]
    rising = [
        min(start * math.exp(min(number * math.log(growth), 14)), 1e6) * noise.lognormal(0, spread)
        for number in range(1500)
    ]
    assert diverged_at([*flat, *rising]) is not None


@given(start=st.floats(0.05, 8), after_steps=st.integers(50, 300))
def test_a_jump_that_stays_is_found_within_a_window(start: float, after_steps: int) -> None:
    found = diverged_at([*[start] * after_steps, *[2 * start + 0.6] * 50])
    assert found is not None
    assert after_steps < found <= after_steps + 50


def test_a_spike_that_goes_away_is_none() -> None:
    assert diverged_at([*[2.0] * 100, *[20.0] * 30, *[2.0] * 100]) is None


def test_a_loss_near_zero_may_double() -> None:
    assert diverged_at([*[0.01] * 100, *[0.3] * 200]) is None


def test_a_trend_that_nobody_looks_at_never_diverges() -> None:
    assert diverged_at([1.0] * 100 + [50.0] * 100, StabilityConfig(divergence=None)) is None


def test_a_few_skipped_steps_in_a_row_are_passed_over() -> None:
    state = after([2.0, math.nan, math.inf], SHORT)
    assert (state.skips_in_a_row, state.skipped_steps) == (2, 2)
    assert due(state, SHORT, step=3, updates=1) is None
    state = after([2.0, math.nan], SHORT, state)
    assert (state.skips_in_a_row, state.skipped_steps) == (1, 3)


def test_one_more_goes_back_to_before_them_and_then_the_run_ends() -> None:
    state = after([2.0, 2.0, math.nan, math.nan, math.nan], SHORT)
    decided = due(state, SHORT, step=5, updates=2)
    assert isinstance(decided, Rollback)
    assert (decided.good_step, decided.remedy, decided.is_divergence) == (2, DivergenceRemedy.LEARNING_RATE, False)
    state = rolled_back(state, SHORT, decided, step=6, to_step=2)
    assert due(state, SHORT, step=6, updates=2) is None
    assert (state.rate_factor, state.rewarm_from, state.rollbacks) == (0.5, 6, 1)
    again = after([math.nan] * 3, SHORT, state)
    assert due(again, SHORT, step=9, updates=2) == GiveUp(
        "loss or gradient norm of steps 7 to 9 were not finite", is_divergence=False
    )


def test_a_run_that_never_had_a_finite_step_ends_at_once() -> None:
    assert isinstance(due(after([math.nan] * 3, SHORT), SHORT, step=3, updates=0), GiveUp)


def test_overflows_that_the_loss_scale_explains_do_not_count() -> None:
    state = StabilityState()
    for _ in range(50):
        state = observed(state, SHORT, step(2.0, is_overflow=True))
    assert (state.skips_in_a_row, state.skipped_steps) == (0, 50)


def test_the_remedies_come_in_their_order_and_then_the_run_ends() -> None:
    state, tried = StabilityState(), []
    for number in range(3):
        state = after([1.0] * 8 + [9.0] * 8, SHORT, state)
        decided = due(state, SHORT, step=100 * (number + 1), updates=50)
        if isinstance(decided, Rollback):
            tried.append((decided.remedy, decided.good_step))
            state = rolled_back(state, SHORT, decided, step=100 * (number + 1), to_step=90)
    assert tried == [(DivergenceRemedy.LEARNING_RATE, 92), (DivergenceRemedy.GRADIENT_CLIPPING, 192)]
    assert isinstance(decided, GiveUp)
    assert decided.is_divergence
    assert (state.rate_factor, state.clip_factor, state.remedies, state.rollbacks) == (0.5, 0.5, 2, 0)
    assert [note.partition(": ")[2] for note in state.interventions] == [
        "back to the weights of step 90, learning rate x 0.5",
        "back to the weights of step 90, gradient threshold halved",
    ]


def test_without_remedies_a_diverging_loss_is_told_once_in_a_window() -> None:
    config = StabilityConfig(divergence=DivergencePolicy(window_steps=8, remedies=None))
    state = after([1.0] * 8 + [9.0] * 8, config)
    decided = due(state, config, step=16, updates=16)
    assert isinstance(decided, Warn)
    state = warned(state, decided)
    assert due(after([9.0] * 7, config, state), config, step=23, updates=23) is None
    assert isinstance(due(after([9.0] * 8, config, state), config, step=24, updates=24), Warn)


def test_rate_and_threshold_as_interventions_leave_them() -> None:
    untouched = StabilityState()
    assert tempered_rate(0.1, untouched, 5, warmup_steps=3) == 0.1
    assert tempered_norm(None, untouched) is None
    state = StabilityState(rate_factor=0.5, rewarm_from=100, clip_factor=0.5)
    assert tempered_rate(0.1, state, 101, warmup_steps=3) == pytest.approx(0.05 / 11)
    assert tempered_rate(0.1, state, 111, warmup_steps=3) == pytest.approx(0.05)
    assert tempered_rate(0.1, state, 110, warmup_steps=99) == pytest.approx(0.05 / 10)
    assert tempered_norm(2.0, state) == 1.0
    assert tempered_norm(None, state) == 0.5


def test_the_state_survives_a_checkpoint() -> None:
    state = after([1.0] * 8 + [9.0] * 8 + [math.nan], SHORT)
    decided = due(state, SHORT, step=17, updates=3)
    state = state.model_copy(update={"owed": decided})
    assert StabilityState.model_validate_json(state.model_dump_json()) == state


def test_an_infinite_loss_with_a_finite_gradient_is_poisoned() -> None:
    logits = torch.tensor([[-math.inf, 0.0]], requires_grad=True)
    target = torch.tensor([0])
    loss = cross_entropy(logits, target, reduction="sum")
    assert math.isinf(float(loss.detach()))
    (plain,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (found,) = torch.autograd.grad(poisoned(loss), logits)
    assert plain.isfinite().all(), "the gradient alone would not tell"
    assert not found.isfinite().any()
