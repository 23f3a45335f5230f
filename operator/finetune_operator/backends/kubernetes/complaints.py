"""What Kubernetes complains of: the newest event of that kind about an object that is not coming along.

Only events say why a Job has no pods (`exceeded quota`) or why a claim has no volume, and no watch of ours brings them:
there are too many in a cluster. They are asked for by object, rarely, and only while something is stuck.
"""

import logging
from collections.abc import Callable

from finetune_operator.backends.kubernetes import pods
from finetune_operator.backends.kubernetes.client import Api, ApiError, Object
from finetune_operator.backends.kubernetes.kinds import EVENTS

FRESH_SECONDS = 10.0
PATIENCE_SECONDS = 2.0
"""What is younger is on its way, and nobody has complained yet."""
MAX_LENGTH = 500

logger = logging.getLogger(__name__)


class Complaints:
    """The newest complaints, each kept for FRESH_SECONDS."""

    def __init__(self, api: Api, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._kept: dict[str, tuple[float, str | None]] = {}

    async def about(self, item: Object) -> str | None:
        """What was complained of last; None: nothing, or it cannot be known."""
        uid, now = item["metadata"]["uid"], self._clock()
        if now - pods.created_at(item) < PATIENCE_SECONDS:
            return None
        self._kept = {key: kept for key, kept in self._kept.items() if now - kept[0] < FRESH_SECONDS}
        if uid not in self._kept:
            self._kept[uid] = (now, await self._ask(item))
        return self._kept[uid][1]

    async def _ask(self, item: Object) -> str | None:
        metadata = item["metadata"]
        fields = f"involvedObject.uid={metadata['uid']}"
        try:
            events, _ = await self._api.list_all(EVENTS, metadata["namespace"], fields=fields)
        except ApiError as error:
            logger.warning("cannot ask why %s does not come along: %s", metadata["name"], error)
            return None
        newest = max(filter(_is_complaint, events), key=_last_seen, default=None)
        return newest.get("message", "")[:MAX_LENGTH] if newest else None


def _is_complaint(event: Object) -> bool:
    # the volume controller says that it finds no volume in a Normal event, FailedBinding
    return event.get("type") == "Warning" or event.get("reason", "").startswith("Failed")


def _last_seen(event: Object) -> str:
    # events of the newer API carry a series or an eventTime and no lastTimestamp; all are RFC 3339 in UTC
    series = event.get("series") or {}
    return series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""
