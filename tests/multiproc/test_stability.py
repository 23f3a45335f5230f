"""Steps that are no numbers: on every rank alike they change nothing, then the run goes back, then it ends.

One row of a model's embedding is infinite, so a sequence with that token has no finite loss, on the one rank that has
it. Nothing else is done to the model or to the code.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune_contract import ExitCode, Outcome, RunConfig
from finetune_trainer import recipe
from finetune_trainer.checkpoint import opened
from finetune_trainer.data.loader import EPOCH_ORDER
from finetune_trainer.data.order import shuffled
from finetune_trainer.distributed import World
from finetune_trainer.failures import NotANumberError, failure_of
from finetune_trainer.running import Position
from multiproc.cases import SEQUENCES, checkpoint_of, config, losses, train, trained_tensors, write_tokens
from multiproc.ranks import on_ranks
from multiproc.test_stopping import StopAfter
from support.tiny import make_model_script

POISON = 1000
"""The token whose embedding is infinite; in no prompt that an export is checked with."""
SEED = 7
SKIPPED, BROKEN = 3, (5, 6)
"""Steps without a finite loss: one that is skipped, two in a row of which the second is one too many."""
STRATEGIES: dict[str, dict[str, Any]] = {
    "DDP": {"type": "DDP"},
    "FSDP": {"type": "FSDP"},
    "FSDP-no-reshard": {"type": "FSDP", "reshard_after_forward": False},
    "ZeRO-1": {"type": "DeepSpeed", "stage": 1},
    "ZeRO-2": {"type": "DeepSpeed", "stage": 2},
    "ZeRO-3": {"type": "DeepSpeed", "stage": 3},
}


@pytest.fixture(scope="module")
def poisoned_model(folder: Path) -> Path:
    """A tiny model whose embedding and head are two tensors, the former with an infinite row."""
    target = folder / "poisoned-model"
    maker = make_model_script()
    shape = maker.tiny_config(1024, hidden_size=32, num_layers=2)
    shape.tie_word_embeddings = False
    maker.save_model(target, shape)
    maker.save_tokenizer(target)
    tensors = load_file(target / "model.safetensors")
    tensors["model.embed_tokens.weight"][POISON] = math.inf
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def poisoned_tokens(folder: Path, steps: tuple[int, ...]) -> Path:
    """A token cache without POISON, but for one sequence of each of these steps of a global batch of two.

    It is never sequence 0, whose beginning is the prompt that an export is checked with.
    """
    order = shuffled(SEQUENCES, SEED, EPOCH_ORDER, 0)
    sequences = [int(max(order[2 * step - 2 : 2 * step])) for step in steps]
    return write_tokens(folder, vocab_size=POISON, first_ids=dict.fromkeys(sequences, POISON))


def nine_steps(output: Path, model: Path, tokens: Path, **changes: Any) -> RunConfig:
    """One epoch with a global batch of two on two ranks; one step may be skipped, then the run goes back once."""
    stability = {"non_finite": {"skip_steps": 1, "rollbacks": 1, "rate_factor": 0.5}}
    return config(
        output, model, tokens,
        **{"batch": (1, 1, 2), "epochs": 1, "stability": stability, "checkpoint": {"every_steps": 1, "keep": 9}}
        | changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokens_with_gaps(folder: Path) -> Path:
    """Steps 3, 5 and 6 have no finite loss."""
    return poisoned_tokens(folder / "poisoned-tokens", (SKIPPED, *BROKEN))


@pytest.fixture(scope="module")
def outputs(folder: Path, poisoned_model: Path, tokens_with_gaps: Path) -> dict[str, Path]:
    """The same nine steps under every strategy."""
    made = {name: folder / f"unstable-{name}" for name in STRATEGIES}
    runs = [
        nine_steps(output, poisoned_model, tokens_with_gaps, parallelism=STRATEGIES[name])
        for name, output in made.items()
    ]
    answers = on_ranks(2, _all, runs, log=folder / "unstable")
    assert answers[0] == answers[1], "both ranks tell the same"
    assert {outcome.exit_code for outcome in answers[0]} == {ExitCode.DONE}
    return made


def _all(world: World, runs: list[RunConfig]) -> list[Outcome]:
    return [train(world, run) for run in runs]


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same to the last bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_skipped_step_changes_no_bit_of_weights_and_moments(outputs: dict[str, Path], strategy: str) -> None:
    output = outputs[strategy]
    assert not math.isfinite(losses(output)[SKIPPED])
    before, after, later = (trained_tensors(output, step) for step in (SKIPPED - 1, SKIPPED, SKIPPED + 1))
    assert differing(before, after) == []
    assert len(differing(after, later)) == len(after)
    states = {step: opened(checkpoint_of(output, step)).state for step in (SKIPPED - 1, SKIPPED, SKIPPED + 1)}
    assert [state.updates for state in states.values()] == [2, 2, 3]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_skipped_step_too_many_takes_the_weights_back(outputs: dict[str, Path], strategy: str) -> None:
    """Found out when step 7 is queued: its update is undone as well, its data and those of 5 and 6 are left behind."""
    output, good, back = outputs[strategy], BROKEN[0] - 1, BROKEN[1] + 1
    assert differing(trained_tensors(output, good), trained_tensors(output, back)) == []
    state = opened(checkpoint_of(output, back)).state
    assert state.updates == opened(checkpoint_of(output, good)).state.updates
    assert state.stability.rollbacks == 1
    assert state.stability.interventions == (
        f"loss or gradient norm of steps 5 to 6 were not finite: back to the weights of step {good}, "
        "learning rate x 0.5",
    )
    assert len(differing(trained_tensors(output, back), trained_tensors(output, back + 1))) > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_hidden_and_no_step_is_told_twice(outputs: dict[str, Path], strategy: str) -> None:
    lines = [json.loads(line) for line in (outputs[strategy] / "attempts/1/losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert {line["step"] for line in lines if not math.isfinite(line["loss"])} == {SKIPPED, *BROKEN}
    assert {line["step"] for line in lines if not line["applied"]} == {SKIPPED, *BROKEN}
    rates = {line["step"]: line["learning_rate"] for line in lines}
    assert rates[8] < rates[7] / 10, "a rollback begins with a new warm-up"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_goes_the_same_way(outputs: dict[str, Path], strategy: str) -> None:
    expected = {step: loss for step, loss in losses(outputs["DDP"]).items() if math.isfinite(loss)}
    found = {step: loss for step, loss in losses(outputs[strategy]).items() if math.isfinite(loss)}
    assert found == pytest.approx(expected, rel=2e-6)


MOMENTS = (6, 7, 8, 9)
"""How often the run asks whether to stop before the answer is yes, around the steps that make it go back."""


@pytest.fixture(scope="module")
def every_fourth(folder: Path, poisoned_model: Path, tokens_with_gaps: Path) -> RunConfig:
    """The nine steps with checkpoints after 4, 8 and 9; they are done."""
    run = nine_steps(
        folder / "every-fourth", poisoned_model, tokens_with_gaps, checkpoint={"every_steps": 4, "keep": 9}
    )
    on_ranks(2, train, run, log=folder / "every-fourth")
    return run


def test_how_often_is_saved_changes_nothing(outputs: dict[str, Path], every_fourth: RunConfig) -> None:
    """A step is heard of one step late, or at once where a checkpoint is taken: the run goes back at the same place."""
    output = Path(every_fourth.output_dir)
    assert repr(losses(output)) == repr(losses(outputs["DDP"]))  # repr, since nan is not nan
    assert differing(trained_tensors(output, 9), trained_tensors(outputs["DDP"], 9)) == []


def _stopped_and_continued(world: World, runs: dict[int, RunConfig]) -> None:
    for moment, run in runs.items():
        first = train(world, run, StopAfter(moment if world.rank == 1 else 10**9))
        assert first.exit_code is ExitCode.PREEMPTED
        train(world, run.model_copy(update={"attempt": 2}))


def test_stopped_anywhere_around_a_rollback_equals_unbroken(every_fourth: RunConfig) -> None:
    """Step 7 is undone when it is still in flight, or when the run has just resumed from it."""
    unbroken = Path(every_fourth.output_dir)
    stopped = {moment: every_fourth.model_copy(update={"output_dir": f"{unbroken}-{moment}"}) for moment in MOMENTS}
    on_ranks(2, _stopped_and_continued, stopped, log=Path(f"{unbroken}-stopped"))
    for moment, run in stopped.items():
        output = Path(run.output_dir)
        told = losses(output, 1) | losses(output, 2)
        assert repr(told) == repr(losses(unbroken)), f"stopped at question {moment}"
        assert differing(trained_tensors(unbroken, 9), trained_tensors(output, 9)) == []
        assert opened(checkpoint_of(output, 9)).state == opened(checkpoint_of(unbroken, 9)).state


class StopWhenOwed:
    """Told to stop from the moment on when going back is decided and not done."""

    def __init__(self, position: Position) -> None:
        self._position = position

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._position.stability.owed is not None

    seconds = 0.0


def _stopped_while_going_back(world: World, run: RunConfig) -> Outcome:
    position = Position()
    Path(run.output_dir).mkdir(exist_ok=True)
    first = recipe.run(run, world, StopWhenOwed(position), position)
    train(world, run.model_copy(update={"attempt": 2}))
    return first


def test_stopped_while_going_back_goes_back_first_of_all(every_fourth: RunConfig) -> None:
    unbroken = Path(every_fourth.output_dir)
    run = every_fourth.model_copy(update={"output_dir": f"{unbroken}-owed"})
    output = Path(run.output_dir)
    outcome = on_ranks(2, _stopped_while_going_back, run, log=Path(f"{unbroken}-owed"))[0]
    assert outcome.exit_code is ExitCode.PREEMPTED
    assert outcome.step == BROKEN[1] + 1
    assert repr(losses(output, 1) | losses(output, 2)) == repr(losses(unbroken))
    assert differing(trained_tensors(unbroken, 9), trained_tensors(output, 9)) == []
    assert opened(checkpoint_of(output, 9)).state == opened(checkpoint_of(unbroken, 9)).state


def _gives_up(world: World, run: RunConfig) -> tuple[str, tuple[str, ...]]:
    with pytest.raises(NotANumberError) as caught:
        train(world, run)
    failure = failure_of(caught.value)
    assert failure.exit_code is ExitCode.NOT_A_NUMBER
    return failure.message, failure.details


def test_when_nothing_is_left_to_try_the_run_ends_with_advice(folder: Path, poisoned_model: Path) -> None:
    tokens = poisoned_tokens(folder / "hopeless-tokens", (2, 3, 5, 6))
    stability = {"non_finite": {"skip_steps": 1, "rollbacks": 1, "rate_factor": 0.5}}
    run = nine_steps(folder / "hopeless", poisoned_model, tokens, stability=stability)
    answers = on_ranks(2, _gives_up, run, log=folder / "hopeless")
    assert answers[0] == answers[1]
    message, tried = answers[0]
    assert message.startswith("loss or gradient norm of steps 5 to 6 were not finite; 1 interventions before")
    assert "lower training.learningRate" in message
    assert tried == (
        "loss or gradient norm of steps 2 to 3 were not finite: back to the weights of step 1, learning rate x 0.5",
    )
    assert sorted(losses(folder / "hopeless")) == list(range(1, 8)), "the step in flight is told of too"
