"""The best look at the held-out rows, and when patience ends."""

import math

from finetune_contract import EvaluationConfig
from finetune_trainer.evaluation import EvaluationState, is_best, is_exhausted, looked


def test_the_best_loss_is_one_that_is_lower_by_enough() -> None:
    config = EvaluationConfig(patience=2, min_delta=0.1)
    state, told = EvaluationState(), []
    for number, loss in enumerate((3.0, 2.95, 2.8, math.nan, 2.75), 1):
        state = looked(state, config, step=10 * number, loss=loss)
        told.append((state.best_step, state.looks_without_gain, is_best(state), is_exhausted(state, config)))
    assert told == [
        (10, 0, True, False),
        (10, 1, False, False),
        (30, 0, True, False),
        (30, 1, False, False),
        (30, 2, False, True),
    ]
    assert state.best_loss == 2.8
    assert EvaluationState.model_validate_json(state.model_dump_json()) == state


def test_without_patience_nothing_ends() -> None:
    state = EvaluationState()
    for number in range(100):
        state = looked(state, EvaluationConfig(), step=number + 1, loss=5.0)
    assert not is_exhausted(state, EvaluationConfig())


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    assert looked(EvaluationState(), EvaluationConfig(), step=1, loss=math.nan).best_step is None
