"""Rows for tests, and what is made of them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from finetune_contract import DatasetConfig, DatasetFormat, VolumeSource
from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import RowProblem
from finetune_trainer.data.formats import Conversation, Layout, Passage, Sample, sample_of
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.row import Row

CONTROL = frozenset({"<|im_start|>", "<|im_end|>", "<|endoftext|>"})
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def tool(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


def call(name: str = "weather", arguments: Any = '{"city": "Paris"}', **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def content_of(
    value: Any, kind: DatasetFormat, columns: Mapping[str, str] | None = None, *, line: int | None = 20
) -> Any:
    """The conversation or passage that a row of this kind holds; a str says what is wrong with it."""
    made = sample_of(Row(2, line, value), Layout(kind, columns or {}), control_tokens=CONTROL)
    if isinstance(made, RowProblem):
        assert (made.row, made.line, made.reason) == (2, line, "BadRows")
        return made.text
    assert isinstance(made, Sample)
    assert (made.row, made.line) == (2, line)
    assert isinstance(made.content, Conversation | Passage)
    return made.content


def dataset_config(**fields: Any) -> DatasetConfig:
    """A DatasetConfig with these fields; where the rows come from does not matter here."""
    whole = {"sources": ({"source": VolumeSource(path="/rows.json")},), "max_tokens": 4096, "seed": 1}
    return DatasetConfig(**(whole | fields))


def rendered(
    tokenizer: Any, row: Any, kind: DatasetFormat = DatasetFormat.MESSAGES, **fields: Any
) -> Document | RowProblem:
    """What becomes of one row."""
    (made,) = _renderer(tokenizer, **fields).documents(Layout(kind), [Row(1, 1, row)])
    return made


@lru_cache(maxsize=32)
def _renderer(tokenizer: Any, **fields: Any) -> Renderer:
    return Renderer(tokenizer, dataset_config(**fields))


def document(tokenizer: Any, row: Any, kind: DatasetFormat = DatasetFormat.MESSAGES, **fields: Any) -> Document:
    """The document that one row becomes."""
    made = rendered(tokenizer, row, kind, **fields)
    assert isinstance(made, Document), made
    return made


def problem(tokenizer: Any, row: Any, kind: DatasetFormat = DatasetFormat.MESSAGES, **fields: Any) -> str:
    """What is wrong with one row."""
    made = rendered(tokenizer, row, kind, **fields)
    assert isinstance(made, RowProblem), made
    return made.text
