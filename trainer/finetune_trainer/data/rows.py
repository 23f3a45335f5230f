"""Rows of a dataset file of any kind that can be read: JSON, JSON lines, parquet."""

from collections.abc import Iterator
from pathlib import Path

from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.json_rows import Row, json_rows

PARQUET = ".parquet"


def dataset_rows(path: Path) -> Iterator[Row]:
    """Every row of `path`; the file's ending tells parquet, and its first character an array from JSON lines."""
    return parquet_rows(path) if path.suffix == PARQUET else json_rows(path)


def parquet_rows(path: Path) -> Iterator[Row]:
    """Every row of a parquet file; such a file has no lines.

    Raises: PreparationError if it cannot be read.
    """
    from datasets import load_dataset  # imported here: a JSON file, the usual case, need not wait for it

    number = 0
    try:
        for value in load_dataset("parquet", data_files=str(path), split="train", streaming=True):
            number += 1
            yield Row(number, None, value)
    except (ValueError, OSError) as error:  # pyarrow's own errors are ValueErrors
        raise PreparationError(
            "BadParquet",
            f"dataset: {path.name} cannot be read as parquet behind row {number:,}: {str(error)[:300]}; write it anew, "
            "or bring the rows as JSON lines",
        ) from error
