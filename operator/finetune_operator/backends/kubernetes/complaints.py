"""What Kubernetes complains of: the newest event of that kind about an object that is not coming along.

Only events say why a Job has no pods (`exceeded quota`), why a claim has no volume or why a pod cannot mount one. No
watch of ours brings them, since there are too many in a cluster. They are asked for while something is stuck, and then
for all that is stuck in the namespace together: the API server has no index for events, and reads them all however
narrow the question.
"""

import logging
from collections.abc import Callable, Iterable

from finetune_operator.backends.kubernetes import pods
from finetune_operator.backends.kubernetes.client import Api, ApiError, Object
from finetune_operator.backends.kubernetes.kept import KeptAnswers
from finetune_operator.backends.kubernetes.kinds import EVENTS, PODS, Kind

FRESH_SECONDS = 10.0
PATIENCE_SECONDS, POD_PATIENCE_SECONDS = 2.0, 10.0
"""What is younger is on its way, and nobody has complained yet; a pod's volumes and network take a while."""
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
        patience_seconds = POD_PATIENCE_SECONDS if kind is PODS else PATIENCE_SECONDS
        if self._clock() - pods.created_at(item) < patience_seconds:
            return None
        event = (await self._newest.get((kind, metadata["namespace"]))).get(metadata["uid"])
        if event is None:
            return None
        said = f"{event['reason']}: {event.get('message', '')}" if kind is PODS else event.get("message", "")
        return str(said)[:MAX_LENGTH]

    async def _ask(self, question: tuple[Kind, str]) -> dict[str, Object]:
        """The newest complaint about every object of that kind in that namespace, by the object's uid."""
        kind, namespace = question
        try:
            events, _ = await self._api.list_all(EVENTS, namespace, fields=f"involvedObject.kind={kind.name}")
        except ApiError as error:
            logger.warning("cannot ask why %s in namespace %s do not come along: %s", kind.plural, namespace, error)
            return {}
        return newest_complaints(kind, events)


def newest_complaints(kind: Kind, events: Iterable[Object]) -> dict[str, Object]:
    """The last complaint about each object, by uid; a pod that has gone on since then has none."""
    considered = events if kind is PODS else filter(_is_complaint, events)
    newest = {event["involvedObject"].get("uid"): event for event in sorted(considered, key=_last_seen)}
    return {uid: event for uid, event in newest.items() if uid and _is_complaint(event)}


def _is_complaint(event: Object) -> bool:
    # the volume controller says that it finds no volume in a Normal event, FailedBinding
    return event.get("type") == "Warning" or event.get("reason", "").startswith("Failed")


def _last_seen(event: Object) -> str:
    # events of the newer API carry a series or an eventTime and no lastTimestamp; all are RFC 3339 in UTC
    series = event.get("series") or {}
    return series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""
