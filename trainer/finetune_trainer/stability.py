"""What is done about steps that are no numbers, and about a loss that rises for good: pure functions of a small state.

The state is part of every checkpoint, and what is due is asked at fixed places of the run, so a run that was stopped
and goes on decides as an unbroken one does.

The remedies against a diverging loss and their order are those of practice: first the learning rate (lower, with a new
warm-up), then the threshold of the gradient norm. Going back and leaving out the data that led there is how PaLM's
spikes were treated (Chowdhery et al. 2022, arXiv 2204.02311, section 5.1).
"""

import statistics
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from finetune_contract import (
    ContractModel,
    DivergencePolicy,
    DivergenceRemedy,
    Interventions,
    NonFinitePolicy,
    StabilityConfig,
)

LEAST_RISE: Final = 0.5
"""In nats: a loss near zero may double and mean nothing."""
REWARM_STEPS: Final = 10
"""A warm-up after an intervention takes at least so many."""
NOTES: Final = 8
"""Interventions that are remembered in words."""


class Level(ContractModel):
    """Where the losses of a window lay."""

    median: float
    upper_quartile: float


class Rollback(ContractModel):
    """Go back to the newest checkpoint of a step up to `good_step`; the data since then are not seen again."""

    cause: str
    good_step: int
    remedy: DivergenceRemedy
    is_divergence: bool


class StabilityState(ContractModel):
    """What has happened so far."""

    skipped_steps: int = 0
    """In the whole run."""
    skips_in_a_row: int = 0
    """Up to the last step; overflows that a loss scale explains do not count."""
    rollbacks: int = 0
    """Because of steps that were not finite."""
    remedies: int = 0
    """Because of a diverging loss."""
    rate_factor: float = 1.0
    clip_factor: float = 1.0
    rewarm_from: int | None = None
    """The step after which the rate rose from zero again."""
    recent: tuple[float, ...] = ()
    """The last finite losses, at most a window of them."""
    best: Level | None = None
    """The window with the lowest median."""
    is_diverged: bool = False
    """Whether the last window is too high."""
    owed: Rollback | None = None
    """Decided on, and not carried out yet: a stop may come between."""
    interventions: Interventions = Field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step came to."""

    loss: float
    applied: bool
    is_overflow: bool
    """Whether it was not applied because of fp16's loss scale alone, which has been lowered."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing is left to try."""

    cause: str
    is_divergence: bool


@dataclass(frozen=True, slots=True)
class Warn:
    """Only to be told of."""

    cause: str


def observed(state: StabilityState, config: StabilityConfig, result: StepResult) -> StabilityState:
    """`state` after one more step."""
    skips = {
        "skipped_steps": state.skipped_steps + (not result.applied),
        "skips_in_a_row": 0 if result.applied or result.is_overflow else state.skips_in_a_row + 1,
    }
    state = state.model_copy(update=skips)
    if config.divergence is None or not result.applied:
        return state
    return _with_loss(state, config.divergence, result.loss)


def _with_loss(state: StabilityState, policy: DivergencePolicy, loss: float) -> StabilityState:
    recent = (*state.recent, loss)[-policy.window_steps :]
    if len(recent) < policy.window_steps:
        return state.model_copy(update={"recent": recent})
    lower, median, upper = statistics.quantiles(recent, n=4, method="inclusive")
    best = state.best
    if best is None or median < best.median:
        best = Level(median=median, upper_quartile=upper)
    return state.model_copy(
        update={"recent": recent, "best": best, "is_diverged": lower > diverged_above(best, policy)}
    )


def diverged_above(best: Level, policy: DivergencePolicy) -> float:
    """Three quarters of a window must lie above this."""
    return max(best.upper_quartile * policy.factor, best.upper_quartile + LEAST_RISE)


def due(state: StabilityState, config: StabilityConfig, *, step: int, updates: int) -> Rollback | GiveUp | Warn | None:
    """What is to be done after the results up to `step`, with weights that have seen so many updates."""
    if state.skips_in_a_row > config.non_finite.skip_steps:
        return _due_for_non_finite(state, config.non_finite, step, updates)
    if state.is_diverged and config.divergence is not None:
        return _due_for_divergence(state, config.divergence, step)
    return None


def _due_for_non_finite(state: StabilityState, policy: NonFinitePolicy, step: int, updates: int) -> Rollback | GiveUp:
    row = state.skips_in_a_row
    which = f"step {step} was" if row == 1 else f"steps {step - row + 1} to {step} were"
    cause = f"loss or gradient norm of {which} not finite"
    if state.rollbacks >= policy.rollbacks or updates == 0:  # it began like this: there is nothing to go back to
        return GiveUp(cause, is_divergence=False)
    return Rollback(cause=cause, good_step=step - row, remedy=DivergenceRemedy.LEARNING_RATE, is_divergence=False)


def _due_for_divergence(state: StabilityState, policy: DivergencePolicy, step: int) -> Rollback | GiveUp | Warn | None:
    assert state.best is not None, "something is higher than it"
    cause = f"the loss has risen from {state.best.median:.3g} to {statistics.median(state.recent):.3g} by step {step}"
    if policy.remedies is None:
        return Warn(cause)
    if state.remedies >= len(policy.remedies):
        return GiveUp(cause, is_divergence=True)
    remedy = policy.remedies[state.remedies]
    return Rollback(cause=cause, good_step=step - policy.window_steps, remedy=remedy, is_divergence=True)


def warned(state: StabilityState, warning: Warn) -> StabilityState:
    """`state` after a warning: the next window is looked at afresh, so that a warning comes once in a window."""
    return state.model_copy(update={"recent": (), "is_diverged": False, "interventions": _noted(state, warning.cause)})


def rolled_back(
    state: StabilityState, config: StabilityConfig, rollback: Rollback, *, step: int, to_step: int
) -> StabilityState:
    """`state` after `rollback` at `step` to the weights of `to_step`."""
    changes: dict[str, object] = {"skips_in_a_row": 0, "recent": (), "is_diverged": False, "owed": None}
    if rollback.remedy is DivergenceRemedy.GRADIENT_CLIPPING:
        changes["clip_factor"] = state.clip_factor / 2
        words = "gradient threshold halved"
    else:
        factor = _rate_factor(config, rollback)
        changes |= {"rate_factor": state.rate_factor * factor, "rewarm_from": step}
        words = f"learning rate x {factor:g}"
    if rollback.is_divergence:
        changes["remedies"] = state.remedies + 1
    else:
        changes["rollbacks"] = state.rollbacks + 1
    note = f"{rollback.cause}: back to the weights of step {to_step}, {words}"
    return state.model_copy(update=changes | {"interventions": _noted(state, note)})


def _rate_factor(config: StabilityConfig, rollback: Rollback) -> float:
    if not rollback.is_divergence:
        return config.non_finite.rate_factor
    assert config.divergence is not None, "it was this policy's"
    return config.divergence.rate_factor


def _noted(state: StabilityState, note: str) -> tuple[str, ...]:
    return (*state.interventions, note[:160])[-NOTES:]


def tempered_rate(rate: float, state: StabilityState, step: int, *, warmup_steps: int) -> float:
    """The schedule's `rate` at `step` as the interventions have left it: lowered, and rising anew after the last."""
    if state.rewarm_from is None:
        return rate
    risen = min(1.0, (step - state.rewarm_from) / (max(warmup_steps, REWARM_STEPS) + 1))
    return rate * state.rate_factor * risen


def tempered_norm(max_norm: float | None, state: StabilityState) -> float | None:
    """The threshold of the gradient norm as the interventions have left it; halving none makes one."""
    return max_norm if state.clip_factor == 1 else (max_norm or 1.0) * state.clip_factor
