"""DeepSpeed's generated configuration holds none of the mistakes that hand-written ones copy from one another."""

from pathlib import Path
from typing import Any

import pytest

from finetune_contract import Precision
from finetune_trainer.strategies.deepspeed import engine_config
from multiproc.cases import config


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("batch", [(1, 1, 1), (3, 5, 7), (2, 8, 4)], ids=str)
def test_generated_configuration_is_consistent(
    tmp_path: Path, batch: tuple[int, int, int], stage: int, precision: Precision
) -> None:
    parallelism: dict[str, Any] = {"type": "DeepSpeed", "stage": stage, "offload_optimizer": "CPU"}
    made = engine_config(
        config(tmp_path, tmp_path, tmp_path, batch=batch, parallelism=parallelism, precision=precision)
    )
    micro, accumulation, world = batch
    assert made["train_batch_size"] == micro * accumulation * world
    assert made["train_micro_batch_size_per_gpu"] == micro
    assert made["gradient_accumulation_steps"] == accumulation
    assert made["bf16"]["enabled"] + made["fp16"]["enabled"] == (precision is not Precision.FP32)
    assert "scheduler" not in made
    assert made["zero_optimization"]["stage"] == stage
    assert made["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert "offload_param" not in made["zero_optimization"]
