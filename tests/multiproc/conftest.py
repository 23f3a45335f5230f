"""Models and tokens that all multi-process tests share, and the runs of one process that they are compared with."""

from pathlib import Path

import pytest

from finetune_contract import RunConfig
from finetune_trainer.distributed import World
from multiproc.cases import FULL, config, train, write_tokens
from multiproc.ranks import on_ranks
from support.tiny import REAL_VOCAB_SIZE, tiny_model_dir


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this folder write."""
    return tmp_path_factory.mktemp("multiproc")


@pytest.fixture(scope="session")
def model(folder: Path) -> Path:
    """A tiny Qwen3 with tied embeddings and the real Qwen3 tokenizer's vocabulary."""
    return tiny_model_dir(folder, "real")


@pytest.fixture(scope="session")
def tokens(folder: Path) -> Path:
    """Documents of uneven length, over the whole vocabulary."""
    return write_tokens(folder / "tokens", vocab_size=REAL_VOCAB_SIZE)


@pytest.fixture(scope="session")
def small_model(folder: Path) -> Path:
    """The same with a vocabulary of 1,024, where its size does not matter."""
    return tiny_model_dir(folder, "tiny")


@pytest.fixture(scope="session")
def small_tokens(folder: Path) -> Path:
    """Documents for the small vocabulary."""
    return write_tokens(folder / "small-tokens", vocab_size=1024)


@pytest.fixture(scope="session")
def one_process(folder: Path, model: Path, tokens: Path) -> dict[str, Path]:
    """What one process makes of the whole batch: output folders of 10 steps of LoRA and of Full."""
    outputs = {"LoRA": folder / "one-lora", "Full": folder / "one-full"}
    runs = [config(outputs["LoRA"], model, tokens), config(outputs["Full"], model, tokens, method=FULL)]
    on_ranks(1, _all, runs, log=folder / "one-process")
    return outputs


def _all(world: World, runs: list[RunConfig]) -> None:
    for run in runs:
        train(world, run)
