"""What can go wrong, and the one place where it becomes words for the person who wrote the run."""

import errno
import re
from typing import ClassVar, Final

import torch
import torch.distributed as dist

from finetune_contract import ExitCode, Failure

PEER_LOST: Final = "PeerLost"
"""Reason of a failure that is only the echo of another rank's: a launcher prefers any other reason to it."""

_PEER_LOST_TEXTS = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "Connection refused",
    "Application timeout caused pair closure", "failed to recv", "Socket Timeout", "Connect timeout",
)  # fmt: skip


class UserError(ValueError):
    """The run cannot work as written; retrying is useless. The message names field, value seen and remedy."""

    def __init__(self, reason: str, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.failure = _failure(ExitCode.USER_ERROR, reason, message, details=details)


class NotANumberError(ArithmeticError):
    """Loss or gradient norm is not finite, and what could be done about it has been; every rank raises it."""

    reason: ClassVar[str] = "NotANumber"

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.failure = _failure(ExitCode.NOT_A_NUMBER, self.reason, message, details=details)


class DivergedError(NotANumberError):
    """The loss has risen for good, and what could be done about it has been; every rank raises it."""

    reason = "Diverged"


class AgreedError(RuntimeError):
    """What rank 0 failed with, raised on every rank."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class RendezvousFailedError(RuntimeError):
    """The ranks of this attempt did not find one another."""


def failure_of(error: BaseException, *, rank: int | None = None, step: int | None = None) -> Failure:
    """`error` as the contract tells it; never raises, whatever the error is."""
    own = getattr(error, "failure", None)  # the preparation's errors bring theirs as well
    if isinstance(own, Failure):
        where = {"rank": rank if own.rank is None else own.rank, "step": step}
        return own.model_copy(update=where)
    if isinstance(error, torch.OutOfMemoryError):
        return _out_of_memory(error, rank, step)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failure(ExitCode.USER_ERROR, "DiskFull", f"{error}; give storage.output more room", rank, step)
    if isinstance(error, RendezvousFailedError):
        return _failure(ExitCode.INFRASTRUCTURE, type(error).__name__.removesuffix("Error"), str(error), rank, step)
    if is_communication_error(error):
        message = f"communication with another rank broke: {error}"
        return _failure(ExitCode.INFRASTRUCTURE, PEER_LOST, message, rank, step)
    if isinstance(error, torch.AcceleratorError):
        return _failure(ExitCode.INFRASTRUCTURE, "AcceleratorFailed", str(error), rank, step)
    return _failure(ExitCode.UNEXPECTED, type(error).__name__, f"{type(error).__name__}: {error}", rank, step)


def is_communication_error(error: BaseException) -> bool:
    """Whether a collective failed; gloo says so in a plain RuntimeError, known only by its text."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _PEER_LOST_TEXTS)


def _failure(
    code: ExitCode,
    reason: str,
    message: str,
    rank: int | None = None,
    step: int | None = None,
    *,
    details: tuple[str, ...] = (),
) -> Failure:
    return Failure(
        exit_code=code, reason=reason[:64], message=message[:2000], details=details[:20], rank=rank, step=step
    )


def _out_of_memory(error: torch.OutOfMemoryError, rank: int | None, step: int | None) -> Failure:
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return Failure(
        exit_code=ExitCode.OUT_OF_MEMORY,
        reason="OutOfMemory",
        message=f"the accelerator's memory did not suffice: {error}"[:2000],
        rank=rank,
        step=step,
        peak_memory_bytes=peak,
        requested_bytes=requested_bytes(str(error)),
    )


def requested_bytes(message: str) -> int | None:
    """What the allocator was asked for when it gave up, from its message (`Tried to allocate 2.00 GiB.`)."""
    found = re.search(r"Tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", message)
    if found is None:
        return None
    unit = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[found[2]]
    return int(float(found[1]) * unit)
