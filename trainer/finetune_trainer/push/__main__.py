"""The entry point of the pod that pushes; answers with a PushOutcome on stdout and in the termination file."""

import logging
import os
import sys
import time
from pathlib import Path

from pydantic import ValidationError

from finetune_contract import ExitCode, Failure, PushConfig, PushOutcome, paths
from finetune_trainer.push import PushError, pushed

log = logging.getLogger("finetune_trainer.push")


def main(arguments: list[str]) -> int:
    """Push what the named file asks for; the exit code is an ExitCode."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("httpx", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    outcome = attempted(Path(arguments[0]), os.environ.get(paths.PUSH_TOKEN_ENV, ""))
    for each in outcome.pushed:
        log.info("pushed %s: %s commit=%s", each.kind, each.url, each.commit)
    if outcome.failure is not None:
        log.error("%s: %s", outcome.failure.reason, outcome.failure.message)
    message = outcome.to_message()
    print(message)
    if termination_file := os.environ.get(paths.TERMINATION_FILE_ENV):
        Path(termination_file).write_text(message, encoding="utf-8")
    return int(outcome.exit_code)


def attempted(config_file: Path, token: str) -> PushOutcome:
    """The outcome of the push that `config_file` asks for; errors become its failure."""
    try:
        config = PushConfig.model_validate_json(config_file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        text = f"{config_file}: not a PushConfig of this image's contract version: {error}"
        return _failed(Failure(exit_code=ExitCode.USER_ERROR, reason="ContractMismatch", message=text[:2000]))
    if not token:
        text = "output.push.tokenSecret: the Secret's value is empty; put a token that may write into it"
        return _failed(Failure(exit_code=ExitCode.USER_ERROR, reason="TokenMissing", message=text))
    try:
        return pushed(config, token, time.sleep)
    except PushError as error:
        return _failed(error.failure)
    except OSError as error:
        text = f"storage.output: {error}".replace(token, "***")
        return _failed(Failure(exit_code=ExitCode.INFRASTRUCTURE, reason="VolumeFailed", message=text[:2000]))


def _failed(failure: Failure) -> PushOutcome:
    return PushOutcome(exit_code=failure.exit_code, failure=failure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
