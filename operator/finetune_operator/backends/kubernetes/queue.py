"""What Kueue says of the Jobs that it holds back: why, and at which place in the line.

Kueue keeps a Workload for every Job. Workloads carry no label of ours, so a watch would bring those of the whole
cluster; the one of a Job is asked for when the Job is looked at while it is held back, and never else.
"""

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from finetune_operator.backends.kubernetes.client import Api, ApiError, NotFoundError, Object
from finetune_operator.backends.kubernetes.kept import KeptAnswers
from finetune_operator.backends.kubernetes.kinds import LOCAL_QUEUES, WORKLOADS, Kind
from finetune_operator.names import KUEUE_JOB_UID_LABEL, KUEUE_QUEUE_LABEL
from finetune_operator.observation import QueuePlace

FRESH_SECONDS = 10.0
"""How long the line of a queue is remembered: all runs that wait in it ask for the same."""

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


class KueueQueues:
    """Kueue's Workloads and its lines, in whichever version the API server has them."""

    def __init__(self, api: Api, ticks: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._lines = KeptAnswers(self._ask_line, lambda _: FRESH_SECONDS, ticks)

    async def place(self, job: Object) -> QueuePlace:
        """Where the suspended `job` stands. Never fails: what cannot be learnt is said to be unknown."""
        metadata = job["metadata"]
        namespace, queue = metadata["namespace"], metadata["labels"][KUEUE_QUEUE_LABEL]
        try:
            workload = await self._workload(namespace, metadata["uid"])
        except ApiError as error:
            logger.warning("Kueue's Workload of Job %s/%s cannot be read: %s", namespace, metadata["name"], error)
            return QueuePlace(queue=queue, message=f"what Kueue says of it cannot be read: {error}")
        if workload is None:
            said = f"Kueue has not taken the run up; see whether it runs, and manages namespace {namespace}"
            return QueuePlace(queue=queue, message=said)
        position = (await self._lines.get((namespace, queue))).get(workload["metadata"]["name"])
        reason, message = said_by(workload)
        return QueuePlace(queue=queue, position=position, reason=reason, message=message)

    async def _workload(self, namespace: str, job_uid: str) -> Object | None:
        """Raises ApiError; NotFoundError when the API server knows no Workloads at all."""
        labels = f"{KUEUE_JOB_UID_LABEL}={job_uid}"
        found, _ = await _first_known(WORKLOADS, lambda kind: self._api.list_all(kind, namespace, labels=labels))
        return found[0] if found else None

    async def _ask_line(self, question: tuple[str, str]) -> dict[str, int]:
        """Position in the ClusterQueue, from 1 on, of every Workload of this LocalQueue; empty: nobody tells."""
        namespace, queue = question

        async def ask(kind: Kind) -> Object:
            return await self._api.call("get", kind, kind.path(namespace, queue, "pendingworkloads"))

        try:
            line = await _first_known(LOCAL_QUEUES, ask)
        except ApiError as error:  # it is served by Kueue itself, and need not be there
            logger.debug("the line of queue %s/%s cannot be read: %s", namespace, queue, error)
            return {}
        return {item["metadata"]["name"]: item.get("positionInClusterQueue", 0) + 1 for item in line.get("items") or ()}


def said_by(workload: Object) -> tuple[str | None, str]:
    """Why the Job of `workload` is held back, or was taken back: Kueue's own reason, and its message."""
    conditions = {each["type"]: each for each in workload.get("status", {}).get("conditions", ())}
    evicted, reserved = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    if evicted.get("status") == "True":
        return evicted.get("reason"), evicted.get("message", "")
    if workload["spec"].get("active") is False:
        return "Deactivated", "somebody has deactivated its Workload (spec.active)"
    if reserved.get("status") == "True":
        waits = "; ".join(_unmet_checks(workload))
        return "QuotaReserved", f"quota is reserved, and it waits for {waits or 'its start'}"
    if reserved:
        return reserved.get("reason"), reserved.get("message", "")
    return None, "Kueue has taken the run up, and has not come to it yet"


def _unmet_checks(workload: Object) -> Iterator[str]:
    for check in workload.get("status", {}).get("admissionChecks", ()):
        if check.get("state") != "Ready":
            tail = f" ({check['message']})" if check.get("message") else ""
            yield f"admission check {check['name']}: {check.get('state', 'Pending')}{tail}"


async def _first_known(kinds: Sequence[Kind], ask: Callable[[Kind], Awaitable[Answer]]) -> Answer:
    """What `ask` answers for the first of `kinds` that the API server knows. Raises what it raises for the last."""
    for kind in kinds[:-1]:
        with contextlib.suppress(NotFoundError):
            return await ask(kind)
    return await ask(kinds[-1])
