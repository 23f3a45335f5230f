"""Half precision under every strategy: fp32 masters, exact resume. (DeepSpeed has no fp16 on a CPU.)"""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_contract import RunConfig
from finetune_trainer.distributed import World
from multiproc.cases import FULL, LORA, config, losses, take_over, train, trained_tensors
from multiproc.parity import METHODS
from multiproc.ranks import on_ranks

CASES: dict[str, dict[str, Any]] = {
    "DDP-Bf16-LoRA": {"precision": "Bf16", "method": LORA},
    "FSDP-Bf16-LoRA": {"precision": "Bf16", "method": LORA, "parallelism": {"type": "FSDP"}},
    "FSDP-Fp16-Full": {"precision": "Fp16", "method": FULL, "parallelism": {"type": "FSDP"}},
    "ZeRO-1-Bf16-LoRA": {"precision": "Bf16", "method": LORA, "parallelism": {"type": "DeepSpeed", "stage": 1}},
    "ZeRO-2-Bf16-LoRA": {"precision": "Bf16", "method": LORA, "parallelism": {"type": "DeepSpeed", "stage": 2}},
    "ZeRO-3-Bf16-Full": {"precision": "Bf16", "method": FULL, "parallelism": {"type": "DeepSpeed", "stage": 3}},
}
TOLERANCE = 2e-2
"""Largest relative difference of a loss to fp32 in four steps; bf16 keeps 8 bits, about 4e-3."""


def _resumed(world: World, source: Path, run: RunConfig) -> None:
    take_over(world, source, 2, Path(run.output_dir))
    train(world, run)


@pytest.fixture(scope="module")
def in_fp32(folder: Path, odd_model: Path, odd_tokens: Path) -> dict[str, dict[int, float]]:
    """The losses of fp32, by method."""
    found = {}
    for name, method in METHODS.items():
        run = _run(folder / f"fp32-{name}", odd_model, odd_tokens, method=method)
        on_ranks(2, train, run, log=folder / "fp32")
        found[name] = losses(Path(run.output_dir))
    return found


def _run(output: Path, model: Path, tokens: Path, **changes: Any) -> RunConfig:
    return config(
        output, model, tokens, batch=(1, 2, 2), max_steps=4, checkpoint={"every_steps": 2, "keep": 9}, **changes
    )


@pytest.mark.parametrize("name", CASES)
def test_half_precision_follows_fp32_and_resumes_exactly(
    name: str, folder: Path, odd_model: Path, odd_tokens: Path, in_fp32: dict[str, dict[int, float]]
) -> None:
    case, straight, resumed = CASES[name], folder / name, folder / f"{name}-resumed"
    on_ranks(2, train, _run(straight, odd_model, odd_tokens, **case), log=straight)
    on_ranks(2, _resumed, straight, _run(resumed, odd_model, odd_tokens, **case), log=resumed)
    assert losses(straight) == pytest.approx(in_fp32[case["method"]["type"]], rel=TOLERANCE)
    expected, found = trained_tensors(straight, 4), trained_tensors(resumed, 4)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
