"""Files of all formats and kinds go into one dataset, and come out as what a model learns."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_contract import DatasetReport
from finetune_trainer.data.build import build_tokens
from finetune_trainer.data.cache import TokenCache, open_tokens
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.data.preview import marked
from finetune_trainer.data.template import template_digest
from unit.trainer_data.conftest import with_template
from unit.trainer_data.rows import WEATHER, assistant, call, dataset_config, tool, user

USER, ASSISTANT = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"


def built(folder: Path, tokenizer: Any, files: list[Path], **fields: Any) -> tuple[TokenCache, DatasetReport, Path]:
    inputs = [InputFile(file, file.name, 0) for file in files]
    config = dataset_config(**{"max_tokens": 512, "packing": False} | fields)
    tokens_dir, report = build_tokens(inputs, config, tokenizer, tokenizer_digest="t", cache_dir=folder / "cache")
    return open_tokens(tokens_dir), report, tokens_dir


def documents(cache: TokenCache, tokenizer: Any) -> list[str]:
    """All of them as text, what is learnt in brackets."""
    split = cache.training
    spans = [slice(begin, end) for begin, end in zip(split.documents[:-1], split.documents[1:], strict=True)]
    return sorted(marked(split.input_ids[span], split.supervised[span], tokenizer) for span in spans)


def five_files(folder: Path) -> list[Path]:
    """A file of each format, in four kinds of files."""
    chat = {
        "messages": [
            user("m"),
            assistant(None, tool_calls=[call(id="1")]),
            tool("sun", tool_call_id="1"),
            assistant("n"),
        ]
    }
    (folder / "alpaca.json").write_text(json.dumps([{"instruction": "a", "input": "b", "output": "c"}]))
    plain = {"messages": [user("o"), assistant("p")], "tools": None}
    pq.write_table(pa.Table.from_pylist([chat | {"tools": [WEATHER]}, plain]), folder / "messages.parquet")
    turns = [{"from": "human", "value": "s"}, {"from": "gpt", "value": "<think>hm</think>t"}]
    (folder / "sharegpt.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")
    with open(folder / "prompts.csv", "w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion"], ["u", "v"], ["line\nbreak", "w"]])
    (folder / "text.jsonl").write_text('{"text": "x y z"}\n')
    names = ("alpaca.json", "messages.parquet", "sharegpt.jsonl", "prompts.csv", "text.jsonl")
    return [folder / name for name in names]


def test_each_file_has_its_own_format_and_kind(tmp_path: Path, qwen3: Any) -> None:
    cache, report, tokens_dir = built(tmp_path, qwen3, five_files(tmp_path))
    found = documents(cache, qwen3)
    (calling,) = [text for text in found if "# Tools" in text]
    assert sorted(set(found) - {calling}) == sorted(
        [
            f"{USER}a\nb{ASSISTANT}{EMPTY}⟦c<|im_end|>⟧",
            f"{USER}o{ASSISTANT}{EMPTY}⟦p<|im_end|>⟧",
            f"{USER}s{ASSISTANT}⟦<think>\nhm\n</think>\n\nt<|im_end|>⟧",
            f"{USER}u{ASSISTANT}{EMPTY}⟦v<|im_end|>⟧",
            f"{USER}line\nbreak{ASSISTANT}{EMPTY}⟦w<|im_end|>⟧",
            "x⟦ y z<|im_end|>⟧",
        ]
    )
    asked = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert calling.endswith(
        f"{USER}m{ASSISTANT}⟦{asked}<|im_end|>⟧\n{USER}<tool_response>\nsun\n</tool_response>{ASSISTANT}{EMPTY}⟦n<|im_end|>⟧"
    )
    assert '"function": {"name": "weather", "parameters": {"type": "object"}}' in calling
    assert (report.rows, report.think_blocks) == (7, 1)
    assert report.template_digest == template_digest(qwen3)
    preview = (tokens_dir / "preview.txt").read_text(encoding="utf-8")
    assert preview.startswith("Rows of the training split as the model sees them.")
    assert sum(text in preview for text in found) == 3


def test_columns_of_other_names_reach_the_rows(tmp_path: Path, qwen3: Any) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    columns = {"instruction": "question", "output": "answer"}
    cache, _, _ = built(tmp_path, qwen3, [tmp_path / "rows.jsonl"], columns=columns)
    assert documents(cache, qwen3) == [f"{USER}q{ASSISTANT}{EMPTY}⟦a<|im_end|>⟧"]


def test_a_mixture_in_one_file_is_named_row_by_row(tmp_path: Path, qwen3: Any) -> None:
    rows = [{"messages": [user("q"), assistant("a")]}, {"text": "t"}, {"instruction": "q", "output": "a"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(PreparationError) as caught:
        built(tmp_path, qwen3, [tmp_path / "rows.jsonl"])
    assert caught.value.failure.details == (
        "line 2, row 2: no messages; columns found: text; it looks like Text, and the file is read as Messages",
        "line 3, row 3: no messages; columns found: instruction, output; it looks like Alpaca, and the file is read as "
        "Messages",
    )


def test_a_model_without_chat_template_is_refused_for_conversations_before_rows_are_read(
    tmp_path: Path, qwen3: Any
) -> None:
    base = with_template(qwen3, None)
    files = five_files(tmp_path)
    cache, report, _ = built(tmp_path, base, files[-1:])
    assert documents(cache, base) == ["x⟦ y z<|im_end|>⟧"]
    assert report.template_digest is None
    with pytest.raises(PreparationError) as caught:
        built(tmp_path, base, files)
    assert caught.value.failure.reason == "NoChatTemplate"
