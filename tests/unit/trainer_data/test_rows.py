"""Parquet files, which most datasets on Hugging Face are, give the same rows as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from finetune_contract import DatasetConfig
from finetune_trainer.data.build import build_tokens
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.rows import dataset_rows

ROWS = [
    {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]} for n in range(5)
]


def parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def test_parquet_and_json_rows_give_the_same_tokens(
    tmp_path: Path, dataset_config: Callable[..., DatasetConfig], tiny_tokenizer: Any
) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    reports = [
        build_tokens(file, dataset_config(), tiny_tokenizer, tokenizer_digest="t", tokens_root=tmp_path / file.suffix)[
            1
        ]
        for file in (tmp_path / "rows.json", parquet(tmp_path, ROWS))
    ]
    assert reports[0].model_copy(update={"digest": ""}) == reports[1].model_copy(update={"digest": ""})


def test_a_bad_parquet_row_is_named_by_number_alone(
    tmp_path: Path, dataset_config: Callable[..., DatasetConfig], tiny_tokenizer: Any
) -> None:
    file = parquet(tmp_path, [*ROWS, {"messages": [{"role": "user", "content": "q"}]}])
    with pytest.raises(PreparationError) as caught:
        build_tokens(file, dataset_config(), tiny_tokenizer, tokenizer_digest="t", tokens_root=tmp_path)
    assert caught.value.failure.details[0].startswith("row 6: the last turn is user's")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(PreparationError, match=r"rows\.parquet cannot be read as parquet") as caught:
        list(dataset_rows(tmp_path / "rows.parquet"))
    assert caught.value.failure.reason == "BadParquet"
