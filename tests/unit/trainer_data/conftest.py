"""Tokenizers and models that several files share; made once."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import DatasetConfig, VolumeSource
from finetune_trainer.prepare import load_tokenizer
from support.tiny import tiny_model_dir
from support.tokenizer import qwen3_tokenizer_dir

TEMPLATES = Path(__file__).parents[2] / "support" / "templates"


@pytest.fixture(scope="session")
def qwen3() -> Any:
    """The real Qwen3 tokenizer."""
    return load_tokenizer(qwen3_tokenizer_dir())


@pytest.fixture(scope="session")
def families(qwen3: Any) -> Mapping[str, Any]:
    """The real tokenizer with the chat template of every family of Qwen3 models."""
    named = {"Hybrid": "qwen3", "Instruct": "qwen3_instruct_2507", "Thinking": "qwen3_thinking_2507"}
    return {"April": qwen3} | {family: with_template(qwen3, template_text(name)) for family, name in named.items()}


def template_text(name: str) -> str:
    """A chat template of tests/support/templates."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def with_template(tokenizer: Any, template: str | None) -> Any:
    """The same tokenizer with another chat template."""
    other = copy.copy(tokenizer)
    other.chat_template = template
    return other


def with_end(tokenizer: Any, token: str | None) -> Any:
    """The same tokenizer with another token that ends a text; a shallow copy would share it."""
    other = copy.deepcopy(tokenizer)
    other.eos_token = token
    return other


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
        sources = ({"source": VolumeSource(path=str(tmp_path / "rows.json"))},)
        defaults = {"sources": sources, "max_tokens": 128, "seed": 7}
        return DatasetConfig(**{**defaults, **fields})

    return config
