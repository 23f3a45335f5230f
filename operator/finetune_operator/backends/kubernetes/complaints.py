"""What Kubernetes complains of: the newest event of that kind about an object that is not coming along.

Only events say why a Job has no pods (`exceeded quota`) or why a claim has no volume, and no watch of ours brings them:
there are too many in a cluster. They are asked for while something is stuck, and then for all that is stuck in the
namespace together: the API server has no index for events and reads them all however narrow the question.
"""

import logging
from collections.abc import Callable

from finetune_operator.backends.kubernetes import pods
from finetune_operator.backends.kubernetes.client import Api, ApiError, Object
from finetune_operator.backends.kubernetes.kept import KeptAnswers
from finetune_operator.backends.kubernetes.kinds import EVENTS, Kind

FRESH_SECONDS = 10.0
PATIENCE_SECONDS = 2.0
"""What is younger is on its way, and nobody has complained yet."""
MAX_LENGTH = 500

logger = logging.getLogger(__name__)


class Complaints:
    """The newest complaints by kind of object and namespace, each answer kept for FRESH_SECONDS."""

    def __init__(self, api: Api, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._newest = KeptAnswers(self._ask, lambda _: FRESH_SECONDS)

    async def about(self, kind: Kind, item: Object) -> str | None:
        """What was complained of last; None: nothing, or it cannot be known."""
        metadata = item["metadata"]
        if self._clock() - pods.created_at(item) < PATIENCE_SECONDS:
            return None
        event = (await self._newest.get((kind, metadata["namespace"]))).get(metadata["uid"])
        return event.get("message", "")[:MAX_LENGTH] if event else None

    async def _ask(self, question: tuple[Kind, str]) -> dict[str, Object]:
        """The newest complaint about every object of that kind in that namespace, by the object's uid."""
        kind, namespace = question
        try:
            events, _ = await self._api.list_all(EVENTS, namespace, fields=f"involvedObject.kind={kind.name}")
        except ApiError as error:
            logger.warning("cannot ask why %s in namespace %s do not come along: %s", kind.plural, namespace, error)
            return {}
        complaints = sorted(filter(_is_complaint, events), key=_last_seen)
        return {event["involvedObject"]["uid"]: event for event in complaints if "uid" in event["involvedObject"]}


def _is_complaint(event: Object) -> bool:
    # the volume controller says that it finds no volume in a Normal event, FailedBinding
    return event.get("type") == "Warning" or event.get("reason", "").startswith("Failed")


def _last_seen(event: Object) -> str:
    # events of the newer API carry a series or an eventTime and no lastTimestamp; all are RFC 3339 in UTC
    series = event.get("series") or {}
    return series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""
