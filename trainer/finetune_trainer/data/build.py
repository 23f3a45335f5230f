"""Builds the token cache of a dataset: read, check, render, tokenize; split, pack, write, report.

Memory holds some rows of each worker and a few numbers per file, shard and sequence, however large the dataset is.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_contract import DatasetConfig, DatasetReport, ExitCode
from finetune_trainer.data.assembly import write_split
from finetune_trainer.data.bad_rows import check_bad_rows
from finetune_trainer.data.cache import REPORT_FILE, TRAINING, VALIDATION, open_tokens, opened
from finetune_trainer.data.digests import Digests
from finetune_trainer.data.disk_space import told_if_full
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.folders import complete, completed_facts, locked, partial_folder, sweep, work_folder
from finetune_trainer.data.input_files import InputFile, content_key, inflated
from finetune_trainer.data.parallel import available_cores
from finetune_trainer.data.preview import preview_text
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.report import dataset_report, write_details
from finetune_trainer.data.shards import ShardMaker, made_shards
from finetune_trainer.data.splitting import Splitting, split_documents
from finetune_trainer.data.spool import ShardFacts, Spool

LOG = logging.getLogger(__name__)

CACHE_VERSION = 2
"""Raised whenever the same input gives other tokens or another layout; old caches are then left alone."""
PREVIEW_FILE = "preview.txt"
_SPOOLED_AND_WRITTEN = 4 + 5
"""Bytes that a token takes while both its shard and its split are there."""


def build_tokens(
    files: Sequence[InputFile], config: DatasetConfig, tokenizer: Any, *, tokenizer_digest: str, cache_dir: Path
) -> tuple[Path, DatasetReport]:
    """The folder of the complete token cache for these inputs below `cache_dir`, and what is in it.

    The same inputs give the same folder; one that is complete and undamaged is used as it is, and one whose preparation
    was killed is continued. Raises: PreparationError if rows cannot be trained on, or none is left.
    """
    digests = Digests(cache_dir / "digests")
    key = cache_key(content_key(files, digests), config, tokenizer_digest, str(tokenizer.chat_template))
    folder = cache_dir / "tokens" / key
    with locked(folder):
        if completed_facts(folder, digest_of=digests.of) is not None:
            LOG.info("tokens: %s is complete, nothing to do", folder)
            shutil.rmtree(work_folder(folder), ignore_errors=True)  # of a preparation that died as it was done
        else:
            sweep(folder.parent, now=time.time())
            _build(folder, key, files, config, tokenizer, digests)
    return folder, open_tokens(folder).report


def cache_key(content: str, config: DatasetConfig, tokenizer_digest: str, chat_template: str) -> str:
    """SHA-256 over all that decides the tokens: content, tokenizer, template and options; not where files lie."""
    options = config.model_dump(mode="json", exclude={"sources": {"__all__": {"source", "file"}}})
    options["validation"].pop("source")
    parts = {
        "version": CACHE_VERSION,
        "content": content,
        "tokenizer": tokenizer_digest,
        "chat_template": hashlib.sha256(chat_template.encode()).hexdigest(),
        "options": options,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _build(
    folder: Path, key: str, files: Sequence[InputFile], config: DatasetConfig, tokenizer: Any, digests: Digests
) -> None:
    work = work_folder(folder)
    try:
        written = _write_cache(folder, key, files, config, tokenizer)
    except PreparationError as error:
        if error.failure.exit_code is ExitCode.USER_ERROR:  # what is tried next are other rows or options: other shards
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(partial_folder(folder), ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    for name, digest in written.items():
        digests.remember(folder / name, digest)


def _write_cache(
    folder: Path, key: str, files: Sequence[InputFile], config: DatasetConfig, tokenizer: Any
) -> dict[str, str]:
    """Make the shards that are missing, and of all of them the complete cache; the digests of its files."""
    work, partial = work_folder(folder), partial_folder(folder)
    spool = Spool(work / "shards")
    plain = [inflated(file, work / "inflated", number) for number, file in enumerate(files)]
    renderer = Renderer(tokenizer, config)
    shards = _spooled(plain, config, renderer, spool)
    check_bad_rows(shards, plain, config.bad_rows)
    splitting = split_documents(shards, plain, config, spool)
    _check_not_empty(splitting, config, shards, plain)
    shutil.rmtree(partial, ignore_errors=True)  # a preparation that died here left it
    partial.mkdir(parents=True)
    _write_splits(partial, splitting, config)
    report = dataset_report(partial, config, shards, plain, splitting, keys=(key, renderer.template_digest))
    (partial / REPORT_FILE).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    write_details(partial, report, shards, plain, spool)
    (partial / PREVIEW_FILE).write_text(preview_text(opened(partial), tokenizer), encoding="utf-8")
    return complete(folder, {"key": key}, with_digests=True)


def _spooled(files: Sequence[InputFile], config: DatasetConfig, renderer: Renderer, spool: Spool) -> list[ShardFacts]:
    """The shards of all files; a volume that fills up meanwhile is told with what all of them would have taken."""
    sizes = [file.path.stat().st_size for file in files]

    def missing() -> int | None:
        done = [facts for facts in spool.complete() if facts.piece.line is not None]
        read = sum(facts.piece.end - facts.piece.begin for facts in done)
        tokens = sum(facts.tokens for facts in done)
        return tokens * sum(sizes) // read * _SPOOLED_AND_WRITTEN - 4 * tokens if read else None

    with told_if_full(spool.folder, "the token cache", missing):
        maker = ShardMaker(files, config, renderer, spool)
        return made_shards(maker, spool, workers=available_cores())


def _write_splits(partial: Path, splitting: Splitting, config: DatasetConfig) -> None:
    spool, workers = splitting.spool, available_cores()
    write_split(partial / TRAINING, spool, splitting.training(), splitting.copies, config, workers=workers)
    if splitting.holds_out:
        write_split(partial / VALIDATION, spool, splitting.validation(), splitting.held_out, config, workers=workers)


def _check_not_empty(
    splitting: Splitting, config: DatasetConfig, shards: Sequence[ShardFacts], files: Sequence[InputFile]
) -> None:
    """Raises: PreparationError if there is nothing to train on, or nothing to validate with where that is wanted."""
    own = len(config.sources)
    for is_validation in (False, True) if config.validation.source else (False,):
        chosen = [facts for facts in shards if (files[facts.file].source == own) is is_validation]
        if not sum(facts.documents for facts in chosen):
            names = [file.name for file in files if (file.source == own) is is_validation]
            raise _empty_dataset("dataset.validation" if is_validation else "dataset", names, config, chosen)
    if not any(splitting.copies(shard).any() for shards in splitting.training().values() for shard in shards):
        raise PreparationError(
            "EmptyDataset",
            "dataset.validation: every training row equals one that is held out, so none is left to train on; bring "
            "rows that differ",
        )


def _empty_dataset(
    field: str, names: Sequence[str], config: DatasetConfig, shards: Sequence[ShardFacts]
) -> PreparationError:
    where = names[0] if len(names) == 1 else f"{len(names):,} files"
    if dropped := sum(facts.dropped for facts in shards):
        message = (
            f"dataset.maxTokens: {config.max_tokens:,} leaves none of the {dropped:,} rows of {where}; raise it or "
            "bring shorter rows"
        )
    elif bad := sum(facts.bad_rows for facts in shards):
        message = f"{field}: none of the {bad:,} rows of {where} can be trained on; see dataset.badRows"
    else:
        message = f"{field}: {where} holds no rows; expected a JSON array of objects, JSON lines, CSV or Parquet"
    return PreparationError("EmptyDataset", message)
