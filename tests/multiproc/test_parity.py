"""Every strategy, on two ranks, does what one process does; and goes on exactly from where it was stopped.

One start of the ranks per strategy runs everything about it.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_contract import RunConfig
from finetune_trainer.distributed import World
from multiproc.cases import FULL, LORA, config, losses, take_over, train, trained_tensors
from multiproc.ranks import on_ranks

STRATEGIES = {
    "DDP": {"type": "DDP"},
    "FSDP": {"type": "FSDP"},
    "FSDP-no-reshard": {"type": "FSDP", "reshard_after_forward": False},
    "ZeRO-1": {"type": "DeepSpeed", "stage": 1},
    "ZeRO-2": {"type": "DeepSpeed", "stage": 2},
    "ZeRO-3": {"type": "DeepSpeed", "stage": 3},
    "ZeRO-3-offload": {"type": "DeepSpeed", "stage": 3, "offload_optimizer": "CPU", "offload_parameters": "CPU"},
}
METHODS: dict[str, dict[str, Any]] = {"LoRA": LORA, "Full": FULL}
TOLERANCE = 2e-6
"""Largest relative difference of a loss to one process after 10 steps: fp32 sums taken in another order, then amplified
by AdamW, which divides small gradients by their own size; 1.5e-7 was seen. Weight decay that one strategy forgot was
found as 1e-4, a wrong divisor shows as 1e-2."""


class Runs:
    """The output folders of one strategy."""

    def __init__(self, folder: Path, strategy: str) -> None:
        self.of = {
            (method, kind): folder / f"{strategy}-{method}-{kind}"
            for method in METHODS
            for kind in ("straight", "resumed", "taken-over")
        }


@pytest.fixture(scope="module", params=STRATEGIES)
def runs(request: pytest.FixtureRequest, folder: Path, model: Path, tokens: Path, one_process: dict[str, Path]) -> Runs:
    """10 steps; 5 steps and then 5 more; and 5 steps after the first 5 of one process."""
    made = Runs(folder, request.param)
    configs = {
        key: config(
            output, model, tokens, parallelism=STRATEGIES[request.param], batch=(1, 2, 2), method=METHODS[key[0]]
        )
        for key, output in made.of.items()
    }
    on_ranks(2, _all_runs, configs, one_process, log=folder / request.param)
    return made


def _all_runs(world: World, configs: dict[tuple[str, str], RunConfig], one_process: dict[str, Path]) -> None:
    for method, reference in one_process.items():
        straight, resumed, taken_over = (configs[method, kind] for kind in ("straight", "resumed", "taken-over"))
        train(world, straight)
        take_over(world, Path(straight.output_dir), 5, Path(resumed.output_dir))
        train(world, resumed)
        take_over(world, reference, 5, Path(taken_over.output_dir))
        train(world, taken_over)


@pytest.mark.parametrize("method", METHODS)
def test_losses_equal_one_process(runs: Runs, one_process: dict[str, Path], method: str) -> None:
    expected = losses(one_process[method])
    found = losses(runs.of[method, "straight"])
    assert sorted(found) == list(range(1, 11))
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_five_and_five_steps_are_ten_steps_bit_for_bit(runs: Runs, method: str) -> None:
    straight, resumed = runs.of[method, "straight"], runs.of[method, "resumed"]
    assert losses(resumed) == {step: loss for step, loss in losses(straight).items() if step > 5}
    expected, found = trained_tensors(straight, 10), trained_tensors(resumed, 10)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_of_one_process_is_taken_up(runs: Runs, one_process: dict[str, Path], method: str) -> None:
    expected = {step: loss for step, loss in losses(one_process[method]).items() if step > 5}
    assert losses(runs.of[method, "taken-over"]) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("parallelism", [{"type": "DDP"}, {"type": "FSDP"}], ids=["DDP", "FSDP"])
@pytest.mark.parametrize("batch", [(1, 4, 1), (1, 2, 2), (2, 1, 2), (1, 1, 4)], ids=str)
def test_cutting_the_batch_otherwise_changes_nothing(
    batch: tuple[int, int, int],
    parallelism: dict[str, Any],
    folder: Path,
    model: Path,
    tokens: Path,
    one_process: dict[str, Path],
) -> None:
    output = folder / f"split-{parallelism['type']}-{batch[0]}-{batch[1]}-{batch[2]}"
    run = config(output, model, tokens, batch=batch, parallelism=parallelism)
    on_ranks(batch[2], train, run, log=output)
    assert losses(output) == pytest.approx(losses(one_process["LoRA"]), rel=TOLERANCE)
