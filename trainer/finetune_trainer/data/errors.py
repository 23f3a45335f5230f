"""Errors that a person who wrote a run can act on."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_contract import ExitCode, Failure

MAX_MESSAGE = 2000
MAX_DETAILS = 20


class PreparationError(Exception):
    """The run cannot go on as written; carries the Failure that is reported.

    `message` names field, value seen, values allowed and remedy. INFRASTRUCTURE marks what may work when tried again.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        details: Sequence[str] = (),
        exit_code: ExitCode = ExitCode.USER_ERROR,
    ) -> None:
        super().__init__(message)
        self.failure = Failure(
            exit_code=exit_code,
            reason=reason,
            message=message[:MAX_MESSAGE],
            details=tuple(detail[:300] for detail in details[:MAX_DETAILS]),
        )


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong with one row; rows and lines count from 1."""

    row: int
    line: int | None
    """Where the row begins in the file; None where a format has no lines."""
    text: str
    reason: str = "BadRows"

    def __str__(self) -> str:
        place = f"row {self.row}" if self.line is None else f"line {self.line}, row {self.row}"
        return f"{place}: {self.text}"
