"""The CPU-only preparation of a run: `python -m finetune_trainer.prepare /config/prepare.json`.

Fetches the model, reads and checks every row, renders, tokenizes and packs them into the cache volume, and answers with
a PrepareOutcome on stdout and in the termination file. Whatever can be wrong with a run is found here, before a GPU is
asked for. Done once, it is done for every run with the same model, data and options.
"""

import errno
import logging
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_contract import DatasetReport, ExitCode, Failure, PrepareConfig, PrepareOutcome, paths
from finetune_trainer.data.build import build_tokens
from finetune_trainer.data.cache import open_tokens
from finetune_trainer.data.disk_space import no_space
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.preview import preview
from finetune_trainer.model_folder import check_targets, model_config, model_facts, tokenizer_digest
from finetune_trainer.object_store import KeyPair
from finetune_trainer.sources import SourceSecrets, resolved_dataset, resolved_model

LOG = logging.getLogger("finetune_trainer.prepare")


def main(arguments: list[str]) -> int:
    """Prepare what the named file asks for; the exit code is an ExitCode."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("httpx", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars for terminals; `sources` logs how far a download is
    outcome = attempted(Path(arguments[0]))
    message = outcome.to_message()
    print(message)
    if termination_file := os.environ.get(paths.TERMINATION_FILE_ENV):
        Path(termination_file).write_text(message, encoding="utf-8")
    return int(outcome.exit_code)


def attempted(config_file: Path) -> PrepareOutcome:
    """The outcome of preparing what `config_file` says; errors become its failure."""
    try:
        config = PrepareConfig.model_validate_json(config_file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        text = f"{config_file}: not a PrepareConfig of this image's contract version: {error}"
        return _failed(Failure(exit_code=ExitCode.USER_ERROR, reason="ContractMismatch", message=text[:2000]))
    try:
        return prepared(config)
    except PreparationError as error:
        return _failed(error.failure)
    except OSError as error:
        LOG.exception("preparation failed")
        return _failed(system_failure(error, config.cache_dir))
    except Exception as error:
        LOG.exception("preparation failed")
        text = f"{type(error).__name__}: {error}"
        return _failed(Failure(exit_code=ExitCode.UNEXPECTED, reason="Unexpected", message=text[:2000]))


def prepared(config: PrepareConfig) -> PrepareOutcome:
    """Fetch, check, tokenize and report.

    Raises: PreparationError for whatever the author of the run can put right.
    """
    cache_dir = Path(config.cache_dir)
    files = resolved_dataset(config.dataset, cache_dir, source_secrets)
    model_dir, revision = resolved_model(config.model, cache_dir, os.environ.get(paths.HUB_TOKEN_ENV) or None)
    shape = model_config(model_dir)
    facts = model_facts(shape)
    check_targets(facts, config.method)
    tokenizer = load_tokenizer(model_dir)
    tokens_dir, report = build_tokens(
        files, config.dataset, tokenizer, tokenizer_digest=tokenizer_digest(model_dir), cache_dir=cache_dir
    )
    _check_positions(report, config.dataset.max_tokens, shape)
    for text in preview(open_tokens(tokens_dir), tokenizer):
        LOG.info("preview, learnt parts in ⟦ ⟧:\n%s", text)
    _log_arithmetic(report, config.dataset.max_tokens)
    return PrepareOutcome(
        exit_code=ExitCode.DONE,
        model=facts,
        model_dir=str(model_dir),
        model_revision=revision,
        dataset=report,
        tokens_dir=str(tokens_dir),
    )


def source_secrets(number: int) -> SourceSecrets:
    """What opens source `number` of the dataset, from the variables that were set for it."""
    token, access_key, secret_key = (
        os.environ.get(name(number)) or None
        for name in (paths.dataset_token_env, paths.dataset_access_key_env, paths.dataset_secret_key_env)
    )
    return SourceSecrets(token, KeyPair(access_key, secret_key) if access_key and secret_key else None)


def load_tokenizer(model_dir: Path) -> Any:
    """The model's own tokenizer, from files alone."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)


def _check_positions(report: DatasetReport, max_tokens: int, shape: dict[str, Any]) -> None:
    """Packed documents count positions from 0 each, so only a single row can be too long for the model."""
    longest, allowed = min(report.length_max, max_tokens), shape.get("max_position_embeddings", 0)
    if longest > allowed:
        raise PreparationError(
            "RowTooLong",
            f"dataset.maxTokens: {max_tokens:,} lets a row of {longest:,} tokens through, and the model has positions "
            f"for {allowed:,}; set dataset.maxTokens to at most {allowed:,}",
        )


def _log_arithmetic(report: DatasetReport, max_tokens: int) -> None:
    LOG.info(
        "tokens: %s rows, %s tokens (%.0f %% learnt) in %s sequences of at most %s: %.1f %% full; %s rows for "
        "validation, %s truncated, %s dropped, %s with reasoning",
        f"{report.rows:,}",
        f"{report.tokens:,}",
        100 * report.supervised_tokens / report.tokens,
        f"{report.sequences:,}",
        f"{max_tokens:,}",
        100 * report.tokens / (report.sequences * max_tokens),
        f"{report.validation_rows:,}",
        f"{report.truncated_rows:,}",
        f"{report.dropped_rows:,}",
        f"{report.think_blocks:,}",
    )


def system_failure(error: OSError, cache_dir: str) -> Failure:
    """What an error of the operating system means to the author of the run."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(Path(cache_dir), "the token cache", None).failure
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        if error.filename is None or Path(error.filename).is_relative_to(cache_dir):
            text = f"storage.cache: {error}; mount the volume read-write, for user {os.geteuid()}"
        else:
            text = f"storage.inputs: {error}; let user {os.geteuid()} read it, and enter the folders above it"
        return Failure(exit_code=ExitCode.USER_ERROR, reason="NotPermitted", message=text[:2000])
    return Failure(exit_code=ExitCode.INFRASTRUCTURE, reason="VolumeFailed", message=f"{error}"[:2000])


def _failed(failure: Failure) -> PrepareOutcome:
    LOG.error("%s: %s", failure.reason, failure.message)
    for detail in failure.details:
        LOG.error("  %s", detail)
    return PrepareOutcome(exit_code=failure.exit_code, failure=failure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
