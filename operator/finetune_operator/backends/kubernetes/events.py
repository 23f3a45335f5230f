"""Events about a run, as `kubectl describe` shows them."""

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from finetune_operator.backends import Addressed
from finetune_operator.backends.kubernetes.client import Api, ApiError, ConflictError, Object
from finetune_operator.backends.kubernetes.kinds import EVENTS, RUNS
from finetune_operator.names import MANAGER

MAX_LENGTH = 1024
"""The API server's own limit for an event's message, in bytes."""

logger = logging.getLogger(__name__)


class Events:
    """Writes events. The same words about the same run are one event with a count, whoever wrote the first."""

    def __init__(self, api: Api, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock

    async def publish(self, run: Addressed, *, reason: str, message: str, is_warning: bool) -> None:
        """An event is a courtesy: when it cannot be written, that is logged and nothing else happens."""
        event = _event(run, reason, message, "Warning" if is_warning else "Normal", self._now())
        try:
            try:
                await self._api.create(EVENTS, event)
            except ConflictError:
                await self._count(event)
        except ApiError as error:
            logger.warning("event %s of run %s could not be written: %s", reason, run.metadata.name, error)

    async def _count(self, event: Object) -> None:
        metadata = event["metadata"]
        known = await self._api.get(EVENTS, metadata["namespace"], metadata["name"])
        change = {"count": (known.get("count") or 1) + 1, "lastTimestamp": event["lastTimestamp"]}
        await self._api.patch(EVENTS, change, EVENTS.path(metadata["namespace"], metadata["name"]))

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _event(run: Addressed, reason: str, message: str, kind: str, now: str) -> Object:
    metadata = run.metadata
    words = "\0".join((metadata.uid, reason, message))
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.name,
        "metadata": {
            "name": f"{metadata.name}.{hashlib.sha256(words.encode()).hexdigest()[:16]}",
            "namespace": metadata.namespace,
        },
        "involvedObject": {
            "apiVersion": RUNS.api_version,
            "kind": RUNS.name,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
        },
        "type": kind,
        "reason": reason,
        "message": message.encode()[:MAX_LENGTH].decode(errors="ignore"),
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": MANAGER},
    }
