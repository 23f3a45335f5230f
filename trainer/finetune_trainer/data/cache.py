"""The token cache: what preparation writes once and every rank of every attempt maps into memory.

    TOKENS_DIR/report.json                    DatasetReport
    TOKENS_DIR/{training,validation}/
        input_ids.npy      int32  [tokens]    all documents, in the order of the sequences
        supervised.npy     uint8  [tokens]    1: this token is learnt
        documents.npy      int64  [D + 1]     where documents begin in the two above, and the end
        sequences.npy      int64  [S + 1]     where sequences begin in `documents`, and the end
        supervised_counts.npy int64 [S]       supervised tokens of each sequence
    TOKENS_DIR/COMPLETE.json                  marker, see `folders`

The first token of a document is never supervised: nothing comes before it that could predict it.
"""

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

    def steps_per_epoch(self, global_sequences: int) -> int:
        """Optimizer steps of one pass; the last one is smaller where `global_sequences` does not divide."""
        return -(-self.training.num_sequences // global_sequences)


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
    report = DatasetReport.model_validate_json((folder / REPORT_FILE).read_text(encoding="utf-8"))
    validation = folder / VALIDATION
    return TokenCache(
        report, Split.opened(folder / TRAINING), Split.opened(validation) if validation.is_dir() else None
    )


def write_split(
    folder: Path,
    input_ids: NDArray[np.int32],
    supervised: NDArray[np.uint8],
    documents: NDArray[np.int64],
    packs: list[list[int]],
) -> None:
    """Write a split whose sequences are `packs`, lists of numbers of `documents`; tokens are copied pack by pack.

    A document that is in no pack is left out. Memory stays at one pack, however large the arrays (memory maps) are.
    """
    folder.mkdir(parents=True)
    lengths = np.diff(documents)
    order = np.array([document for pack in packs for document in pack], dtype=np.int64)
    new_documents = np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64)
    new_sequences = np.cumsum([0, *map(len, packs)], dtype=np.int64)
    counts = np.zeros(len(packs), dtype=np.int64)
    with (
        _NpyStream(folder / "input_ids.npy", np.int32, int(new_documents[-1])) as ids_out,
        _NpyStream(folder / "supervised.npy", np.uint8, int(new_documents[-1])) as supervised_out,
    ):
        for number, pack in enumerate(packs):
            spans = [slice(documents[document], documents[document + 1]) for document in pack]
            ids_out.append(np.concatenate([input_ids[span] for span in spans]))
            flags = np.concatenate([supervised[span] for span in spans])
            supervised_out.append(flags)
            counts[number] = flags.sum()
    np.save(folder / "documents.npy", new_documents)
    np.save(folder / "sequences.npy", new_sequences)
    np.save(folder / "supervised_counts.npy", counts)


class _NpyStream:
    """A one-dimensional .npy file of known length, written front to back."""

    def __init__(self, path: Path, dtype: type[np.generic], length: int) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed in __exit__
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: NDArray[np.generic]) -> None:
        self._file.write(values.tobytes())

    def __enter__(self) -> "_NpyStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
