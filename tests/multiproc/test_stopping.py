"""A run that is told to stop, at any boundary and on any one rank, saves once, and goes on as if nothing had been."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_contract import ExitCode, Outcome, RunConfig
from finetune_trainer.checkpoint import complete_checkpoints, damage
from finetune_trainer.distributed import World
from multiproc.cases import LORA, checkpoint_of, config, losses, train, trained_tensors
from multiproc.ranks import on_ranks

MOMENTS = (0, 1, 4, 10, 12, 13, 19, 22)
"""How often the run asks before the answer is yes: while it loads (the first ones), in accumulation (twice in each of 8
steps), in validation after steps 5 and 8, while a save is awaited, before and during the export."""


class StopAfter:
    """Told to stop while it asks for the n-th time, and again every time after that."""

    def __init__(self, questions: int) -> None:
        self._left = questions

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        self._left -= 1
        return self._left < 0

    @property
    def seconds(self) -> float:
        """Just now."""
        return 0.0


def _stopped_and_continued(
    world: World, unbroken: RunConfig, stopped: dict[int, RunConfig]
) -> tuple[Outcome, dict[int, tuple[Outcome, Outcome]]]:
    whole = train(world, unbroken)
    outcomes = {}
    for moment, run in stopped.items():
        # only rank 1 is told
        first = train(world, run, StopAfter(moment if world.rank == 1 else 10**9))
        outcomes[moment] = (first, train(world, run.model_copy(update={"attempt": 2})))
    return whole, outcomes


@pytest.mark.parametrize(
    ("parallelism", "moments"),
    [
        ({"type": "DDP"}, MOMENTS),
        ({"type": "FSDP", "reshard_after_forward": False}, (1, 12, 13)),
        ({"type": "DeepSpeed", "stage": 2}, (1, 13)),
        ({"type": "DeepSpeed", "stage": 3}, (13,)),
    ],
    ids=["DDP", "FSDP", "ZeRO-2", "ZeRO-3"],
)
def test_stopped_at_any_boundary_equals_unbroken(
    parallelism: dict[str, Any], moments: tuple[int, ...], folder: Path, small_model: Path, small_tokens: Path
) -> None:
    def run(name: str) -> RunConfig:
        # with dropout: what is random must not depend on what happened before
        output = folder / f"stop-{parallelism['type']}-{parallelism.get('stage', '')}-{name}"
        return config(
            output, small_model, small_tokens, parallelism=parallelism, batch=(1, 2, 2), max_steps=8,
            method=LORA | {"dropout": 0.2},
        )  # fmt: skip

    unbroken, stopped = run("unbroken"), {moment: run(str(moment)) for moment in moments}
    answers = on_ranks(2, _stopped_and_continued, unbroken, stopped, log=Path(f"{unbroken.output_dir}.ranks"))
    expected = losses(Path(unbroken.output_dir))
    for moment, (first, second) in answers[0][1].items():
        output = Path(stopped[moment].output_dir)
        assert first.exit_code is ExitCode.PREEMPTED
        assert second.exit_code is ExitCode.DONE
        assert (first.step or 0) == (first.checkpoint.step if first.checkpoint else 0)
        before = losses(output, 1) if first.step else {}
        assert before | losses(output, 2) == expected, f"stopped at question {moment}, after step {first.step}"
        whole, found = trained_tensors(Path(unbroken.output_dir), 8), trained_tensors(output, 8)
        assert all(torch.equal(whole[name], found[name]) for name in whole)
        assert [damage(each) for each in complete_checkpoints(output / "checkpoints")].count(None) >= 1
    assert answers[0] == answers[1], "both ranks tell the same"


def _finished_twice(world: World, run: RunConfig) -> tuple[Outcome, Outcome]:
    return train(world, run), train(world, run.model_copy(update={"attempt": 2}))


def test_an_attempt_after_the_last_step_only_exports(folder: Path, small_model: Path, small_tokens: Path) -> None:
    run = config(folder / "twice", small_model, small_tokens, batch=(2, 1, 2), merge_adapter=True)
    first, second = on_ranks(2, _finished_twice, run, log=folder / "twice")[0]
    assert second.result == first.result
    assert not (folder / "twice" / "attempts" / "2" / "losses.jsonl").exists()
    assert checkpoint_of(folder / "twice", 10).is_dir()
