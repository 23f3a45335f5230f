"""What may pass is tried again, longer and longer apart; the rest becomes words for the person who wrote the run.

A hub's client wraps what went wrong in errors of its own, several deep, so the whole chain is looked at: first for an
answer of the hub, then for a connection that broke.
"""

import logging
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from modelscope_hub.errors import APIError, HubError

from finetune_contract import ExitCode, PushTarget
from finetune_trainer.push.errors import PushError, named

log = logging.getLogger("finetune_trainer.push")

PAUSES: Final = (2.0, 5.0, 15.0, 45.0)
"""Seconds before the second, third, ... try, unless the hub says how long to wait. The clients try requests again by
themselves; these are for what that did not mend."""
LONGEST_PAUSE: Final = 300.0

_TRANSPORTS: Final = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
"""Packages that raise where there was no answer; which of them a client uses changes with its version."""

T = TypeVar("T")


def retried(action: Callable[[], T], target: PushTarget, token: str, sleep: Callable[[float], None]) -> T:
    """What `action` returns, once it succeeds.

    Raises: PushError when the hub refuses, or when it has failed too often; its text never holds the token.
    """
    for pause in (*PAUSES, None):
        try:
            return action()
        except Exception as error:
            failure = error if isinstance(error, PushError) else _failure(error, target, token)
            if failure.failure.exit_code is not ExitCode.INFRASTRUCTURE or pause is None:
                raise failure from (None if failure is error else error)
            seconds = min(_retry_after(error) or pause, LONGEST_PAUSE)
            log.warning("%s; trying again in %.0f s", failure, seconds)
            sleep(seconds)
    raise AssertionError("the last try returns or raises")


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the hub answered with, if it did."""
    for each in _chain(error):
        if isinstance(each, HfHubHTTPError) and each.response is not None:
            return int(each.response.status_code)
        if isinstance(each, APIError) and each.status_code is not None:
            return int(each.status_code)
    return None


def _retry_after(error: BaseException) -> float | None:
    for each in _chain(error):
        asked = getattr(each, "retry_after", None)
        if asked is None and isinstance(each, HfHubHTTPError) and each.response is not None:
            asked = each.response.headers.get("Retry-After")
        if asked is not None and re.fullmatch(r"\d+(\.\d+)?", str(asked)):
            return float(asked)
    return None


def _failure(error: Exception, target: PushTarget, token: str) -> PushError:
    said = f"{type(error).__name__}: {error}".replace(token, "***")[:600]
    status = status_of(error)
    where = named(target)
    if status == 401:
        return PushError(
            "TokenRefused",
            f"output.push.tokenSecret: {target.hub.value} does not accept the token ({said}); put one that may write, "
            f"and has not expired, into the Secret",
        )
    if status == 403:
        return PushError(
            "PushForbidden",
            f"{where}: the token may not write there ({said}); use a token with write access, of an account of "
            f"{target.repository.partition('/')[0]}, or another repository",
        )
    if status == 404:
        return PushError(
            "PushTargetNotFound",
            f"{where}, branch {target.revision}: not found ({said}); check the owner's name and output.push.revision, "
            "and whether the token may see it",
        )
    if _may_pass(error, status):
        return PushError("HubUnreachable", f"{where}: could not be pushed to: {said}", ExitCode.INFRASTRUCTURE)
    if status is not None or isinstance(error, HFValidationError | HubError | ValueError):
        return PushError("PushRefused", f"{where}: {target.hub.value} refuses it: {said}")
    return PushError("Unexpected", f"{where}: {said}", ExitCode.UNEXPECTED)


def _may_pass(error: BaseException, status: int | None) -> bool:
    if status is not None:
        return status in (408, 409, 412, 425, 429) or status >= 500
    return any(
        isinstance(each, ConnectionError | TimeoutError)
        or type(each).__module__.partition(".")[0] in _TRANSPORTS
        or bool(getattr(each, "retryable", False))
        for each in _chain(error)
    )
