"""What the preparation tells of a dataset: a bounded report for the status, and all the rest in a file beside it."""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_contract import DatasetConfig, DatasetReport, LengthBin, SourceReport
from finetune_trainer.data.bad_rows import MAX_LISTED, bad_rows
from finetune_trainer.data.cache import TRAINING, VALIDATION, Split
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.data.selection import distinct
from finetune_trainer.data.splitting import Splitting
from finetune_trainer.data.spool import ShardFacts, Spool

DETAILS_FILE = "details.json"
SHORTEST_BIN = 32


class Lengths:
    """How many rows have how many tokens; exact, and as large as there are different lengths."""

    def __init__(self, arrays: Iterable[NDArray[np.int64]]) -> None:
        counts: dict[int, int] = {}
        for array in arrays:
            for length, count in zip(*(each.tolist() for each in np.unique(array, return_counts=True)), strict=True):
                counts[length] = counts.get(length, 0) + count
        self.counts = dict(sorted(counts.items()))
        self.rows = sum(counts.values())

    def percentile(self, percent: int) -> int:
        """The length that so many of 100 rows do not exceed."""
        rank = -(-self.rows * percent // 100)
        seen = 0
        for length, count in self.counts.items():
            seen += count
            if seen >= rank:
                return length
        return 0

    def bins(self) -> tuple[LengthBin, ...]:
        """Rows by their lengths, up to 32, 64, 128 ... tokens."""
        bins: dict[int, int] = {}
        for length, count in self.counts.items():
            up_to = max(SHORTEST_BIN, 1 << (length - 1).bit_length())
            bins[up_to] = bins.get(up_to, 0) + count
        return tuple(LengthBin(up_to=up_to, rows=rows) for up_to, rows in bins.items())


def dataset_report(
    folder: Path,
    config: DatasetConfig,
    shards: Sequence[ShardFacts],
    files: Sequence[InputFile],
    splitting: Splitting,
    *,
    keys: tuple[str, str | None],
) -> DatasetReport:
    """What is in the token cache that is being written into `folder`; `keys` are its own and its template's digest."""
    spool = splitting.spool
    training = Split.opened(folder / TRAINING)
    validation = Split.opened(folder / VALIDATION) if (folder / VALIDATION).is_dir() else None
    per_sequence = training.token_counts(np.arange(training.num_sequences))
    learnt_from = [number for number, facts in enumerate(shards) if files[facts.file].source < len(config.sources)]
    lengths = Lengths(spool.row_lengths(number) for number in range(len(shards)))
    tokens = int(per_sequence.sum())
    return DatasetReport(
        rows=training.num_documents,
        validation_rows=validation.num_documents if validation else 0,
        sequences=training.num_sequences,
        tokens=tokens,
        supervised_tokens=training.supervised_tokens,
        length_p50=lengths.percentile(50),
        length_p95=lengths.percentile(95),
        length_p99=lengths.percentile(99),
        length_max=lengths.percentile(100),
        lengths=lengths.bins(),
        longest_sequence=int(per_sequence.max()),
        truncated_rows=sum(facts.truncated for facts in shards),
        dropped_rows=sum(facts.dropped for facts in shards),
        skipped_rows=sum(facts.bad_rows for facts in shards),
        duplicate_rows=_repeated(spool.contents, learnt_from),
        duplicate_ids=_repeated(spool.ids, learnt_from),
        left_out_duplicates=splitting.left_out_duplicates(),
        think_blocks=sum(facts.think_blocks for facts in shards),
        packing_efficiency=tokens / (training.num_sequences * config.max_tokens) if config.packing else 1.0,
        sources=_sources(config, shards, files),
        template_digest=keys[1],
        digest=keys[0],
    )


def write_details(
    folder: Path, report: DatasetReport, shards: Sequence[ShardFacts], files: Sequence[InputFile], spool: Spool
) -> None:
    """Everything that is known of the dataset, for people and their scripts."""
    details: dict[str, Any] = {
        "report": report.model_dump(mode="json"),
        "files": [_file(number, file, shards) for number, file in enumerate(files)],
        "bad_rows": [str(bad) for bad in islice(bad_rows(shards, files), MAX_LISTED)],
        "rows_by_length": Lengths(spool.row_lengths(number) for number in range(len(shards))).counts,
    }
    (folder / DETAILS_FILE).write_text(json.dumps(details, indent=1, ensure_ascii=False), encoding="utf-8")


def _file(number: int, file: InputFile, shards: Sequence[ShardFacts]) -> dict[str, Any]:
    own = [facts for facts in shards if facts.file == number]
    counts = {name: sum(getattr(facts, name) for facts in own) for name in ("rows", "documents", "tokens", "bad_rows")}
    return {"name": file.name, "source": file.source, **counts}


def _sources(
    config: DatasetConfig, shards: Sequence[ShardFacts], files: Sequence[InputFile]
) -> tuple[SourceReport, ...]:
    if len(config.sources) == 1:
        return ()
    found = []
    for number in range(len(config.sources)):
        own = [facts for facts in shards if files[facts.file].source == number]
        found.append(
            SourceReport(
                rows=sum(facts.rows for facts in own),
                tokens=sum(facts.tokens for facts in own),
                bad_rows=sum(facts.bad_rows for facts in own),
            )
        )
    return tuple(found)


def _repeated(values: Callable[[int], NDArray[np.uint64]], shards: Sequence[int]) -> int:
    """Values that equal an earlier one."""
    total = sum(len(values(number)) for number in shards)
    return total - distinct(lambda: (values(number) for number in shards), total)
