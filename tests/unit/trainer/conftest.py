"""A tiny model, tokens for it and a world of one rank; nothing here starts a process."""

from pathlib import Path

import pytest
import torch

from finetune_trainer.distributed import World
from multiproc.cases import write_tokens
from support.tiny import tiny_mixture_dir, tiny_model_dir


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 model folder."""
    return tiny_model_dir(tmp_path_factory.mktemp("model"), "tiny")


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 mixture of experts."""
    return tiny_mixture_dir(tmp_path_factory.mktemp("mixture"))


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token cache of uneven documents."""
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tokens", vocab_size=1024)


@pytest.fixture(scope="session")
def alone() -> World:
    """One rank on the CPU, which has nobody to agree with."""
    torch.set_num_threads(1)
    return World(rank=0, size=1, device=torch.device("cpu"), control=None)
