"""Half precision under every strategy: fp32 masters, exact resume. (DeepSpeed has no fp16 on a CPU.)"""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_contract import RunConfig
from finetune_trainer.distributed import World
from multiproc.cases import FULL, LORA, config, losses, take_over, train, trained_tensors
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


def _straight_and_resumed(world: World, runs: dict[str, tuple[RunConfig, RunConfig]]) -> None:
    for straight, resumed in runs.values():
        train(world, straight)
        take_over(world, Path(straight.output_dir), 2, Path(resumed.output_dir))
        train(world, resumed)


def test_half_precision_follows_fp32_and_resumes_exactly(folder: Path, small_model: Path, small_tokens: Path) -> None:
    def run(name: str, **changes: Any) -> RunConfig:
        checkpoints = {"every_steps": 2, "keep": 9}
        return config(
            folder / name, small_model, small_tokens, batch=(1, 2, 2), max_steps=4, checkpoint=checkpoints, **changes
        )

    runs = {name: (run(name, **case), run(f"{name}-resumed", **case)) for name, case in CASES.items()}
    fp32 = {name: run(name, method=method) for name, method in (("fp32-LoRA", LORA), ("fp32-Full", FULL))}
    on_ranks(2, _straight_and_resumed, runs, log=folder / "half")
    on_ranks(2, _all, list(fp32.values()), log=folder / "fp32")
    for name, case in CASES.items():
        reference = losses(folder / f"fp32-{case['method']['type']}")
        assert losses(folder / name) == pytest.approx(reference, rel=TOLERANCE), name
        expected, found = trained_tensors(folder / name, 4), trained_tensors(folder / f"{name}-resumed", 4)
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}, name
        assert [key for key in expected if not torch.equal(expected[key], found[key])] == [], name


def _all(world: World, runs: list[RunConfig]) -> None:
    for run in runs:
        train(world, run)
