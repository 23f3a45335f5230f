"""What Kueue says of a Job, whichever version of it there is, and what is said where it says nothing."""

import asyncio
from typing import Any

import pytest

from finetune_operator.backends.kubernetes.client import ApiError, ConflictError, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import Kind
from finetune_operator.backends.kubernetes.pod_groups import PodGroups
from finetune_operator.backends.kubernetes.queue import KueueQueues, said_by
from finetune_operator.names import KUEUE_QUEUE_LABEL
from finetune_operator.observation import QueuePlace
from support import kube_objects as objects


def condition(kind: str, status: str, reason: str, message: str = "") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def workload(*conditions: Object, checks: tuple[Object, ...] = (), **spec: Any) -> Object:
    status = {"conditions": list(conditions), "admissionChecks": list(checks)}
    return {"metadata": {"name": "job-huanhuan-r1-1a2b3"}, "spec": spec, "status": status}


PENDING = condition("QuotaReserved", "False", "Pending", "insufficient unused quota for nvidia.com/gpu")
RESERVED = condition("QuotaReserved", "True", "QuotaReserved")
EVICTED = condition("Evicted", "True", "Preempted", "to accommodate a workload")


@pytest.mark.parametrize(
    ("of", "reason", "words"),
    [
        (workload(PENDING), "Pending", "insufficient unused quota"),
        (workload(RESERVED, EVICTED), "Preempted", "to accommodate"),
        (workload(PENDING, EVICTED | {"status": "False"}), "Pending", "insufficient unused quota"),
        (workload(PENDING, active=False), "Deactivated", "spec.active"),
        (
            workload(RESERVED, checks=({"name": "capacity", "state": "Pending", "message": "asked for 2 nodes"},)),
            "QuotaReserved",
            "waits for admission check capacity: Pending (asked for 2 nodes)",
        ),
        (workload(RESERVED, checks=({"name": "capacity", "state": "Ready"},)), "QuotaReserved", "waits for its start"),
        (workload(), None, "has not come to it yet"),
        ({"metadata": {"name": "bare"}, "spec": {}}, None, "has not come to it yet"),
    ],
)
def test_what_a_workload_says(of: Object, reason: str | None, words: str) -> None:
    said, message = said_by(of)
    assert said == reason
    assert words in message


class Answers:
    """An API server that knows these kinds' answers, by API version and plural, and no others."""

    def __init__(self, **known: Any) -> None:
        self.known = known
        self.asked: list[str] = []

    async def call(self, verb: str, kind: Kind, path: str, **_: Any) -> Any:
        self.asked.append(f"{verb} {kind.version} {kind.plural}")
        answer = self.known.get(f"{kind.version}_{kind.plural}", NotFoundError(path, 404, "page not found"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def list_all(self, kind: Kind, namespace: str, **_: Any) -> tuple[list[Object], int]:
        return await self.call("list", kind, kind.path(namespace)), 1

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        found: Object = await self.call("get", kind, kind.path(namespace, name))
        return found

    async def create(self, kind: Kind, body: Object) -> Object:
        self.asked.append(f"create {kind.version} {kind.plural}")
        self.known[f"{kind.version}_{kind.plural}"] = body
        return body


def placed(api: Answers, times: int = 1) -> QueuePlace:
    job = objects.job(spec={"suspend": True})
    job["metadata"]["labels"] |= {KUEUE_QUEUE_LABEL: "research"}
    queues = KueueQueues(api, lambda: 0.0)  # type: ignore[arg-type]

    async def ask() -> QueuePlace:
        for _ in range(times - 1):
            await queues.place(job)
        return await queues.place(job)

    return asyncio.run(ask())


LINE = {
    "items": [
        {"metadata": {"name": "other"}},
        {"metadata": {"name": "job-huanhuan-r1-1a2b3"}} | {"positionInClusterQueue": 4},
    ]
}


@pytest.mark.parametrize("version", ["v1beta2", "v1beta1"])
def test_reason_and_position_come_from_the_version_that_is_served(version: str) -> None:
    api = Answers(**{f"{version}_workloads": [workload(PENDING)], f"{version}_localqueues": LINE})
    place = placed(api)
    assert (place.queue, place.position, place.reason) == ("research", 5, "Pending")


def test_a_line_that_nobody_tells_leaves_the_reason() -> None:
    nobody: tuple[Any, ...] = (NotFoundError("get", 404, "no such API"), ApiError("get", 503, "no endpoints"), {})
    for line in nobody:
        place = placed(Answers(v1beta2_workloads=[workload(PENDING)], v1beta2_localqueues=line))
        assert (place.position, place.reason) == (None, "Pending")


def test_a_thousand_runs_of_a_queue_ask_for_its_line_once() -> None:
    api = Answers(v1beta2_workloads=[workload(PENDING)], v1beta2_localqueues=LINE)
    placed(api, times=1000)
    assert api.asked.count("get v1beta2 localqueues") == 1


def test_a_kueue_that_is_away_is_told() -> None:
    assert "Kueue has not taken the run up" in placed(Answers(v1beta2_workloads=[])).message
    assert (
        "cannot be read: list: 403 forbidden"
        in placed(Answers(v1beta2_workloads=ApiError("list", 403, "forbidden"))).message
    )
    assert "404 page not found" in placed(Answers()).message


def group(uid: str = "job-1") -> Object:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "huanhuan-r1", "uid": uid}
    metadata = {"name": "huanhuan-r1", "namespace": "team", "ownerReferences": [owner]}
    return {"apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "PodGroup", "metadata": metadata, "spec": {}}


def test_a_pod_group_is_made_once_and_looked_for_again_after_a_while() -> None:
    api, now = Answers(), [0.0]
    groups = PodGroups(api, lambda: now[0])  # type: ignore[arg-type]
    for now[0] in (0.0, 1.0, 59.0, 61.0):
        asyncio.run(groups.keep(group()))
    assert api.asked == ["get v1beta1 podgroups", "create v1beta1 podgroups", "get v1beta1 podgroups"]
    del api.known["v1beta1_podgroups"]
    now[0] = 200.0
    asyncio.run(groups.keep(group()))
    assert api.asked[-1] == "create v1beta1 podgroups", "somebody had deleted it"


def test_a_pod_group_of_a_namesakes_job_is_waited_out() -> None:
    api = Answers(v1beta1_podgroups=group("job-of-before"))
    with pytest.raises(ConflictError, match="belongs to another Job of that name"):
        asyncio.run(PodGroups(api, lambda: 0.0).keep(group()))  # type: ignore[arg-type]
