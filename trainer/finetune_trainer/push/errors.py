"""Why a push has failed, in words for the person who wrote the run."""

from finetune_contract import ExitCode, Failure, PushTarget

REMEDY_AGAIN = "the training is not lost: once this is mended, only the push is done again"


class PushError(Exception):
    """A push that did not succeed."""

    def __init__(self, reason: str, message: str, exit_code: ExitCode = ExitCode.USER_ERROR) -> None:
        super().__init__(message)
        self.failure = Failure(exit_code=exit_code, reason=reason, message=message[:2000])


def named(target: PushTarget) -> str:
    """The repository, as the resource names it."""
    return f"output.push.repository: {target.repository} on {target.hub.value}"
