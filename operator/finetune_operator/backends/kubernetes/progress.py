"""Rank 0's /progress, asked for at most once in an interval and never waited for long."""

import time
from collections.abc import Callable

import aiohttp
from pydantic import ValidationError

from finetune_contract import Progress
from finetune_operator.backends.kubernetes import pods
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.observe import SeenProgress
from finetune_operator.backends.kubernetes.store import RunKey
from finetune_operator.observation import WorkerState

TIMEOUT = aiohttp.ClientTimeout(total=3, connect=1)
MAX_BYTES = 65_536
"""A pod may answer with anything; a Progress is below 1 KiB."""

SLACK = 0.1
"""Share of the interval by which a look may come early, so that one that comes on time is not refused."""


class ProgressPoller:
    """The newest answers. They are a cache: a restarted operator asks again."""

    def __init__(
        self,
        port: int,
        interval_seconds: float,
        clock: Callable[[], float],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is in unix seconds, for people; `ticks` never jump."""
        self._port = port
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._ticks = ticks
        self._session: aiohttp.ClientSession | None = None
        self._seen: dict[RunKey, dict[int, SeenProgress]] = {}
        self._asked_at: dict[RunKey, float] = {}

    async def close(self) -> None:
        """Closes every connection."""
        if self._session:
            await self._session.close()

    def forget(self, key: RunKey) -> None:
        """The run is gone."""
        self._seen.pop(key, None)
        self._asked_at.pop(key, None)

    async def look(self, key: RunKey, of_pods: tuple[Object, ...]) -> dict[int, SeenProgress]:
        """The newest answer of every attempt that has pods, by attempt; asks again where that is due."""
        numbers = {pods.attempt_number(pod) for pod in of_pods}
        seen = {number: kept for number, kept in self._seen.get(key, {}).items() if number in numbers}
        target = next((pod for pod in of_pods if _serves_progress(pod)), None)
        if target is not None and self._is_due(key):
            self._asked_at[key] = self._ticks()
            number, answer = pods.attempt_number(target), await self._ask(target["status"]["podIP"])
            if answer is not None and answer.attempt == number:
                seen[number] = SeenProgress(answer, self._clock())
        self._seen[key] = seen
        return seen

    def _is_due(self, key: RunKey) -> bool:
        asked_at = self._asked_at.get(key)
        return asked_at is None or self._ticks() - asked_at >= self._interval_seconds * (1 - SLACK)

    async def _ask(self, address: str) -> Progress | None:
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._open().get(f"http://{host}:{self._port}/progress", allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                return Progress.model_validate_json(await _bounded(answer.content))
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError):
            return None  # it may still be loading, or a network policy forbids it: `progress_seen_at` tells how old

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # one-shot connections: pods come and go, and ten seconds is longer than most keep an idle one
            self._session = aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(force_close=True))
        return self._session


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    """The whole body, however many pieces it comes in; of one that is too long, its beginning."""
    body = b""
    async for piece in content.iter_any():
        body += piece
        if len(body) > MAX_BYTES:
            break
    return body


def _serves_progress(pod: Object) -> bool:
    return (
        pods.attempt_number(pod) is not None
        and pods.node_rank(pod) == 0
        and pods.state(pod) is WorkerState.RUNNING
        and bool(pod.get("status", {}).get("podIP"))
    )
