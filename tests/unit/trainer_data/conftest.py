"""Tokenizers and models that several files share; made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import DatasetConfig, VolumeSource
from finetune_trainer.prepare import load_tokenizer
from support.tiny import tiny_model_dir
from support.tokenizer import qwen3_tokenizer_dir


@pytest.fixture(scope="session")
def qwen3() -> Any:
    """The real Qwen3 tokenizer."""
    return load_tokenizer(qwen3_tokenizer_dir())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with its tiny tokenizer."""
    return tiny_model_dir(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model: Path) -> Any:
    """The tiny model's tokenizer."""
    return load_tokenizer(tiny_model)


@pytest.fixture
def dataset_config(tmp_path: Path) -> Callable[..., DatasetConfig]:
    """Makes a DatasetConfig for `tmp_path`/rows.json; fields can be set."""

    def config(**fields: Any) -> DatasetConfig:
        defaults = {"source": VolumeSource(path=str(tmp_path / "rows.json")), "max_tokens": 128, "seed": 7}
        return DatasetConfig(**{**defaults, **fields})

    return config
