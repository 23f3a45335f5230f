"""The best look at the held-out rows, and when patience ends."""

import math
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import EvaluationConfig
from finetune_trainer.distributed import World
from finetune_trainer.evaluation import EvaluationState, is_best, is_exhausted, looked
from finetune_trainer.saving import room_for_the_rest
from multiproc.cases import config
from support.exports import loaded


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


@pytest.mark.parametrize(
    ("evaluation", "divergence", "more"),
    [
        ({}, None, 1),  # after the last step
        ({"keep_best": True}, None, 1),  # looks are where the saves are
        ({"keep_best": True, "every_steps": 5}, None, 3),  # the best, the newest, and one that is being written
        ({"keep_best": True, "every_steps": 1}, {"window_steps": 8}, 5),  # and two to go back to
    ],
)
def test_room_is_asked_for_whatever_a_look_may_save(
    tmp_path: Path,
    model: Path,
    tokens: Path,
    alone: World,
    evaluation: dict[str, Any],
    divergence: dict[str, Any] | None,
    more: int,
) -> None:
    run = config(
        tmp_path, model, tokens, checkpoint={"every_steps": 1000, "keep": 1}, evaluation=evaluation,
        stability={"divergence": divergence},
    )  # fmt: skip
    assert room_for_the_rest(loaded(run, alone)).startswith(f"up to {more} more of ")
