"""Builds the token cache of one dataset: read, check, render, tokenize, split, pack, write, report.

Tokens are spooled to the volume as they come, so memory holds one batch of rows and a few numbers per row.
"""

import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune_contract import DatasetConfig, DatasetReport, OverlongPolicy
from finetune_trainer.data.cache import REPORT_FILE, TRAINING, VALIDATION, Split, open_tokens, write_split
from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import PreparationError, RowProblem, RowProblems
from finetune_trainer.data.folders import complete, completed_facts, file_digest, locked, partial_folder
from finetune_trainer.data.formats import found_layout
from finetune_trainer.data.order import shuffled
from finetune_trainer.data.packing import packed
from finetune_trainer.data.parallel import available_cores, mapped
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.rows import dataset_rows

LOG = logging.getLogger(__name__)

CACHE_VERSION = 1
"""Raised whenever the same input gives other tokens or another layout; old caches are then left alone."""
ROWS_PER_BATCH = 512
LOG_EVERY_ROWS = 100_000
_VALIDATION_SPLIT = 0x56414C49  # keeps this use of the seed apart from others

T = TypeVar("T")


def build_tokens(
    file: Path, config: DatasetConfig, tokenizer: Any, *, tokenizer_digest: str, tokens_root: Path
) -> tuple[Path, DatasetReport]:
    """The folder of the complete token cache for these inputs below `tokens_root`, and what is in it.

    The same inputs give the same folder; one that is complete and undamaged is used as it is.
    Raises: PreparationError if a row cannot be trained on, or none is left.
    """
    key = cache_key(file, config, tokenizer_digest, str(tokenizer.chat_template))
    folder = tokens_root / key
    with locked(folder):
        if completed_facts(folder, check_digests=True) is not None:
            LOG.info("tokens: %s is complete, nothing to do", folder)
        else:
            try:
                _write_cache(folder, key, file, config, tokenizer)
            finally:  # what is left of a failed attempt would only fill the volume
                shutil.rmtree(partial_folder(folder), ignore_errors=True)
    return folder, open_tokens(folder).report


def cache_key(file: Path, config: DatasetConfig, tokenizer_digest: str, chat_template: str) -> str:
    """SHA-256 over all that decides the tokens: content, tokenizer, template and options; not the file's name."""
    parts = {
        "version": CACHE_VERSION,
        "content": file_digest(file),
        "tokenizer": tokenizer_digest,
        "chat_template": hashlib.sha256(chat_template.encode()).hexdigest(),
        "options": config.model_dump(mode="json", exclude={"source", "file"}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class _Tally:
    """What has been seen of the rows so far."""

    lengths: list[int] = field(default_factory=list)
    """Of every row, before truncation."""
    kept: list[int] = field(default_factory=list)
    """Tokens of every document that stays."""
    truncated: int = 0
    dropped: int = 0
    think_blocks: int = 0


def _write_cache(folder: Path, key: str, file: Path, config: DatasetConfig, tokenizer: Any) -> None:
    partial = partial_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)  # a preparation that died here left it
    partial.mkdir(parents=True)
    tally = _spool_documents(partial, file, config, tokenizer)
    if not tally.kept:
        raise _empty_dataset(file, config, tally)
    training, validation = _split_rows(len(tally.kept), config)
    _write_packed(partial, TRAINING, training, tally.kept, config)
    if len(validation):
        _write_packed(partial, VALIDATION, validation, tally.kept, config)
    for spool in _spools(partial):
        spool.unlink()
    report = _report(partial, key, config, tally)
    (partial / REPORT_FILE).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    complete(folder, {"key": key}, with_digests=True)


def _spool_documents(partial: Path, file: Path, config: DatasetConfig, tokenizer: Any) -> _Tally:
    """Every document that stays, as raw tokens and flags one after another."""
    renderer = Renderer(tokenizer, config)
    problems = RowProblems(file.name)
    tally = _Tally()
    rows = dataset_rows(file)
    first_rows = list(islice(rows, ROWS_PER_BATCH))
    layout = found_layout(first_rows, config, file.name)
    renderer.check(layout)
    ids_path, flags_path = _spools(partial)
    with open(ids_path, "wb") as ids_out, open(flags_path, "wb") as flags_out:
        batches = _batches(chain(first_rows, rows), ROWS_PER_BATCH)
        for documents in mapped(functools.partial(renderer.documents, layout), batches, workers=available_cores()):
            for document in documents:
                fitted = document if isinstance(document, RowProblem) else _fitted(document, config, tally)
                if isinstance(fitted, RowProblem):
                    problems.add(fitted)
                elif fitted:
                    fitted.input_ids.tofile(ids_out)
                    fitted.supervised.tofile(flags_out)
                    tally.kept.append(len(fitted.input_ids))
            _log_now_and_then(tally, len(documents))
    problems.raise_any()
    return tally


def _log_now_and_then(tally: _Tally, new_rows: int) -> None:
    rows = len(tally.lengths)
    if rows // LOG_EVERY_ROWS > (rows - new_rows) // LOG_EVERY_ROWS:
        LOG.info("tokenized: %s rows, %s tokens", f"{rows:,}", f"{sum(tally.kept):,}")


def _fitted(document: Document, config: DatasetConfig, tally: _Tally) -> Document | RowProblem | None:
    """The document cut to `max_tokens` as the policy has it; None if it is left out."""
    length = len(document.input_ids)
    tally.lengths.append(length)
    tally.think_blocks += document.think_blocks
    if length <= config.max_tokens:
        return document
    if config.overlong is OverlongPolicy.REFUSE:
        text = (
            f"{length:,} tokens, dataset.maxTokens allows {config.max_tokens:,}; raise it, shorten the row, or set "
            "dataset.overlong to Truncate or Drop"
        )
        return RowProblem(document.row, document.line, text, "RowTooLong")
    cut = document.first(config.max_tokens)
    if config.overlong is OverlongPolicy.DROP or not cut.supervised.any():
        tally.dropped += 1
        return None
    tally.truncated += 1
    return cut


def _split_rows(count: int, config: DatasetConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the training and of the validation documents; a validation that is asked for has at least one."""
    if config.validation_fraction == 0:
        return np.arange(count), np.arange(0)
    if count < 2:
        raise PreparationError(
            "EmptyDataset",
            f"dataset.validation.fraction: {config.validation_fraction} of {count} row leaves none to train on; "
            "set it to 0 or bring more rows",
        )
    held_out = min(max(1, round(count * config.validation_fraction)), count - 1)
    order = shuffled(count, config.seed, _VALIDATION_SPLIT)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _write_packed(
    partial: Path, name: str, chosen: NDArray[np.int64], lengths: list[int], config: DatasetConfig
) -> None:
    documents = np.cumsum([0, *lengths], dtype=np.int64)
    packs = [[number] for number in range(len(chosen))]
    if config.packing:
        packs = packed([lengths[document] for document in chosen], max_tokens=config.max_tokens, seed=config.seed)
    ids_path, flags_path = _spools(partial)
    write_split(
        partial / name,
        np.memmap(ids_path, dtype=np.int32, mode="r"),
        np.memmap(flags_path, dtype=np.uint8, mode="r"),
        documents,
        [chosen[pack].tolist() for pack in packs],
    )


def _report(partial: Path, key: str, config: DatasetConfig, tally: _Tally) -> DatasetReport:
    training = Split.opened(partial / TRAINING)
    validation_rows = len(tally.kept) - training.num_documents
    per_sequence = training.token_counts(np.arange(training.num_sequences))
    p50, p95 = np.percentile(tally.lengths, [50, 95])
    tokens = int(per_sequence.sum())
    room = training.num_sequences * config.max_tokens
    return DatasetReport(
        rows=training.num_documents,
        validation_rows=validation_rows,
        sequences=training.num_sequences,
        tokens=tokens,
        supervised_tokens=training.supervised_tokens,
        length_p50=round(p50),
        length_p95=round(p95),
        length_max=max(tally.lengths),
        longest_sequence=int(per_sequence.max()),
        truncated_rows=tally.truncated,
        dropped_rows=tally.dropped,
        think_blocks=tally.think_blocks,
        packing_efficiency=tokens / room if config.packing else 1.0,
        digest=key,
    )


def _empty_dataset(file: Path, config: DatasetConfig, tally: _Tally) -> PreparationError:
    if tally.dropped:
        message = (
            f"dataset.maxTokens: {config.max_tokens:,} leaves none of the {tally.dropped:,} rows of {file.name}; "
            f"the shortest has {min(tally.lengths):,} tokens; raise it or bring shorter rows"
        )
    else:
        message = f"dataset: {file.name} holds no rows; expected a JSON array of objects, JSON lines, or parquet"
    return PreparationError("EmptyDataset", message)


def _spools(partial: Path) -> tuple[Path, Path]:
    return partial / "spool_ids.bin", partial / "spool_flags.bin"


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
