"""A tiny model and a world of one rank; nothing here starts a process or trains."""

from pathlib import Path

import pytest
import torch

from finetune_trainer.distributed import World
from support.tiny import tiny_model_dir


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 model folder."""
    return tiny_model_dir(tmp_path_factory.mktemp("model"), "tiny")


@pytest.fixture(scope="session")
def alone() -> World:
    """One rank on the CPU."""
    torch.set_num_threads(1)
    return World(rank=0, size=1, device=torch.device("cpu"), control=None)
