"""The token cache: what preparation writes once and every rank of every attempt maps into memory.

    TOKENS_DIR/report.json                    DatasetReport
    TOKENS_DIR/details.json, preview.txt      for people: files, bad rows, lengths; rows as the model sees them
    TOKENS_DIR/{training,validation}/
        input_ids.npy      int32  [tokens]    all documents, in the order of the sequences
        supervised.npy     uint8  [tokens]    1: this token is learnt
        documents.npy      int64  [D + 1]     where documents begin in the two above, and the end
        sequences.npy      int64  [S + 1]     where sequences begin in `documents`, and the end
        supervised_counts.npy int64 [S]       supervised tokens of each sequence
    TOKENS_DIR/COMPLETE.json                  marker, see `folders`

The first token of a document is never supervised: nothing comes before it that could predict it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_contract import DatasetReport
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.folders import completed_facts

REPORT_FILE = "report.json"
TRAINING = "training"
VALIDATION = "validation"


@dataclass(frozen=True, slots=True)
class Split:
    """Sequences of documents of tokens, memory-mapped."""

    input_ids: NDArray[np.int32]
    supervised: NDArray[np.uint8]
    documents: NDArray[np.int64]
    sequences: NDArray[np.int64]
    supervised_counts: NDArray[np.int64]

    @classmethod
    def opened(cls, folder: Path) -> "Split":
        """Map the arrays in `folder` into memory."""
        return cls(*(np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False) for field in fields(cls)))

    @property
    def num_sequences(self) -> int:
        """How many sequences there are."""
        return len(self.sequences) - 1

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.documents) - 1

    def token_counts(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of the sequences with these numbers."""
        return self.documents[self.sequences[sequences + 1]] - self.documents[self.sequences[sequences]]

    @property
    def supervised_tokens(self) -> int:
        """Supervised tokens of all sequences together."""
        return int(self.supervised_counts.sum())

    def document_offsets(self, sequence: int) -> NDArray[np.int64]:
        """Where the documents of one sequence begin in `input_ids`, and where the last one ends."""
        first, end = self.sequences[sequence], self.sequences[sequence + 1]
        return self.documents[first : end + 1]


@dataclass(frozen=True, slots=True)
class TokenCache:
    """An opened token cache."""

    report: DatasetReport
    training: Split
    validation: Split | None


def open_tokens(tokens_dir: str | Path) -> TokenCache:
    """Map a token cache into memory.

    Raises: PreparationError if the folder is not a complete cache.
    """
    folder = Path(tokens_dir)
    if completed_facts(folder) is None:
        raise PreparationError(
            "TokensIncomplete",
            f"tokens_dir: {folder} is not a complete token cache; run the preparation again, it will write it anew",
        )
    return opened(folder)


def opened(folder: Path) -> TokenCache:
    """The token cache in a folder that is known to be whole, memory-mapped."""
    report = DatasetReport.model_validate_json((folder / REPORT_FILE).read_text(encoding="utf-8"))
    validation = folder / VALIDATION
    return TokenCache(
        report, Split.opened(folder / TRAINING), Split.opened(validation) if validation.is_dir() else None
    )


class SplitFiles:
    """The files of a split while they are written: each part of them at its own place, by whichever process."""

    def __init__(self, folder: Path, offsets: dict[str, int]) -> None:
        self._folder = folder
        self._offsets = offsets

    @classmethod
    def created(cls, folder: Path, *, documents: int, tokens: int) -> "SplitFiles":
        """New files of a split with so many documents and tokens."""
        folder.mkdir(parents=True, exist_ok=True)
        lengths: dict[str, tuple[type[np.generic], int]] = {
            "input_ids": (np.int32, tokens),
            "supervised": (np.uint8, tokens),
            "documents": (np.int64, documents + 1),
        }
        offsets = {name: _write_header(folder / f"{name}.npy", *shape) for name, shape in lengths.items()}
        files = cls(folder, offsets)
        files._write("documents", 0, np.zeros(1, dtype=np.int64))
        return files

    def write_tokens(self, first: int, input_ids: NDArray[np.int32], supervised: NDArray[np.uint8]) -> None:
        """Put tokens from number `first` on into their place."""
        self._write("input_ids", first, input_ids)
        self._write("supervised", first, supervised)

    def write_documents(self, first: int, ends: NDArray[np.int64]) -> None:
        """Put where the documents from number `first` on end into its place."""
        self._write("documents", first + 1, ends)

    def finish(self, tables: Iterable[NDArray[np.int64]]) -> None:
        """Write what is known of the sequences: rows of [documents, supervised tokens], in order."""
        table = np.concatenate(list(tables))
        np.save(self._folder / "sequences.npy", np.concatenate([[0], np.cumsum(table[:, 0])]).astype(np.int64))
        np.save(self._folder / "supervised_counts.npy", table[:, 1].astype(np.int64))

    def _write(self, name: str, first: int, values: NDArray[np.generic]) -> None:
        with open(self._folder / f"{name}.npy", "r+b") as file:
            file.seek(self._offsets[name] + first * values.dtype.itemsize)
            file.write(np.ascontiguousarray(values).view(np.uint8).data)


def _write_header(path: Path, dtype: type[np.generic], length: int) -> int:
    """Begin a one-dimensional .npy file; where its values go."""
    with open(path, "wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()
