"""Names that are taken, labels that were removed: what is not the run's own is never touched, and the run says so."""

import asyncio
from typing import Any

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from finetune_operator import names
from finetune_operator.backends.kubernetes import KubernetesBackend
from finetune_operator.backends.kubernetes.client import Api, ConflictError, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import JOBS, SERVICES, Kind
from finetune_operator.backends.kubernetes.store import Store
from finetune_operator.lifecycle import decide_pass
from finetune_operator.planning import make_plan, prepare_config, run_config
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import Condition, ConditionType, PreparationStatus, Status
from support.runs import START, preparation, run

UID = "7c2f"
PREPARE, WORKERS = names.prepare_job("huanhuan"), names.workers_service("huanhuan")


class Server(Api):
    """Objects by path; says no to a name that is taken."""

    def __init__(self) -> None:
        super().__init__(ApiClient(configuration=Configuration()))
        self.objects: dict[str, Object] = {}
        self.writes: list[str] = []

    async def call(self, verb: str, kind: Kind, path: str, **options: Any) -> Object:
        body: Object = options.get("body", {})
        if verb == "list":
            return {"items": [], "metadata": {}}
        if verb == "get":
            if path not in self.objects:
                raise NotFoundError(path, 404, "none")
            return self.objects[path]
        path = f"{path}/{body['metadata']['name']}" if verb == "create" else path
        if verb == "create" and path in self.objects:
            raise ConflictError(path, 409, "already exists")
        self.writes.append(f"{verb} {body['metadata']['name']}")
        self.objects[path] = self.live(body)
        return self.objects[path]

    def put(self, kind: Kind, name: str, **metadata: Any) -> None:
        """Somebody else's object."""
        known = {"name": name, "namespace": "research"} | metadata
        body = {"kind": kind.name, "metadata": known, "spec": {"theirs": 1}}
        self.objects[kind.path("research", name)] = self.live(body)

    def live(self, body: Object) -> Object:
        known = {"uid": f"uid-{len(self.objects)}", "creationTimestamp": "2023-11-14T22:13:20Z"}
        return {**body, "metadata": known | body["metadata"] | {"resourceVersion": str(100 + len(self.writes))}}


class Told:
    """A backend on such a server, and what the run would say."""

    def __init__(self) -> None:
        self.server = Server()
        self.run: Qwen3FineTune = run()
        self.backend = KubernetesBackend(self.server, Store(), Settings())

    async def prepare(self) -> None:
        config = prepare_config(self.run, self.backend.locations(self.run))
        await self.backend.start_preparation(self.run, config)

    async def train(self) -> None:
        record = PreparationStatus(model_dir="/m", tokens_dir="/t", finished_at="2026-01-01T00:00:00Z")
        found = preparation().outcome
        assert found is not None
        plan = make_plan(self.run, model=found.model, dataset=found.dataset, gpu_memory_bytes=None)
        config = run_config(
            self.run, plan, record, self.backend.locations(self.run), model_revision=None, attempt=1, grace_seconds=300
        )
        await self.backend.start_attempt(self.run, plan, config, avoided_nodes=())

    async def condition(self, kind: ConditionType) -> Condition:
        seen = await self.backend.observe(self.run)
        plan = make_plan(self.run, model=None, dataset=None, gpu_memory_bytes=None)
        decision = decide_pass(self.run, Status(), seen, lambda _: plan, Settings(), START)
        return next(each for each in decision.status.conditions if each.type is kind)


def test_a_job_of_the_same_name_that_is_somebody_elses_is_left_alone_and_told() -> None:
    async def story() -> None:
        told = Told()
        told.server.put(JOBS, PREPARE)
        with pytest.raises(ConflictError):
            await told.prepare()
        said = await told.condition(ConditionType.PREPARED)
        assert said.reason == "NameTaken"
        assert said.message.startswith(f"Job {PREPARE} exists and is not this run's; delete it, or")
        assert told.server.objects[JOBS.path("research", PREPARE)]["spec"] == {"theirs": 1}
        del told.server.objects[JOBS.path("research", PREPARE)]
        await told.prepare()
        assert (await told.condition(ConditionType.PREPARED)).reason != "NameTaken"

    asyncio.run(story())


def test_a_service_of_the_same_name_is_not_taken_over() -> None:
    async def story() -> None:
        told = Told()
        told.server.put(SERVICES, WORKERS)
        with pytest.raises(ConflictError, match="not this run's"):
            await told.train()
        assert told.server.objects[SERVICES.path("research", WORKERS)]["spec"] == {"theirs": 1}
        assert told.server.writes == [], "nothing was made beside it"

    asyncio.run(story())


def test_what_an_earlier_run_of_the_name_left_is_waited_for() -> None:
    async def story() -> None:
        told = Told()
        told.server.put(JOBS, PREPARE, labels=names.run_labels("huanhuan"), ownerReferences=[{"uid": "of-before"}])
        with pytest.raises(ConflictError):
            await told.prepare()
        assert "earlier run of the same name" in (await told.condition(ConditionType.PREPARED)).message

    asyncio.run(story())


def test_a_job_that_lost_its_labels_is_told_with_the_remedy() -> None:
    async def story() -> None:
        told = Told()
        told.server.put(JOBS, PREPARE, ownerReferences=[{"uid": UID}])
        with pytest.raises(ConflictError):
            await told.prepare()
        assert names.RUN_LABEL in (await told.condition(ConditionType.PREPARED)).message

    asyncio.run(story())


def test_a_service_that_lost_its_labels_gets_them_back() -> None:
    async def story() -> None:
        told = Told()
        told.server.put(SERVICES, WORKERS, ownerReferences=[{"uid": UID}])
        await told.train()
        assert f"apply {WORKERS}" in told.server.writes
        labels = told.server.objects[SERVICES.path("research", WORKERS)]["metadata"]["labels"]
        assert labels[names.RUN_LABEL] == "huanhuan"

    asyncio.run(story())


def test_what_is_ours_is_made_once() -> None:
    async def story() -> None:
        told = Told()
        await told.prepare()
        await told.train()
        made = list(told.server.writes)
        assert len(set(made)) == len(made)
        assert {each.split()[0] for each in made} == {"create"}
        assert f"create {names.attempt_job('huanhuan', 1)}" in made

    asyncio.run(story())
