"""The API server is away for ten minutes: the operator stays, and goes on by itself when it is back."""

import asyncio
from typing import Any

from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from finetune_operator.backends.kubernetes.client import Api, ApiError, ConflictError, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import RUNS, Kind
from finetune_operator.controller import Controller
from finetune_operator.settings import Settings
from support.jumping_loop import run
from support.runs import body

RESYNC_SECONDS = 60


class Server(Api):
    """Runs and what is made for them; away while it is told to be, and then with the error that it is told."""

    def __init__(self, *bodies: Object) -> None:
        super().__init__(ApiClient(configuration=Configuration()))
        self.trouble: ApiError | None = None
        self.refused = 0
        self._version = 10
        self.objects = {RUNS.path("research", each["metadata"]["name"]): self._written(each) for each in bodies}

    async def call(self, verb: str, kind: Kind, path: str, **options: Any) -> Object:
        if self.trouble is not None:
            self.refused += 1
            raise self.trouble
        sent: Any = options.get("body")
        if verb == "list":
            items = [each for each in self.objects.values() if each.get("kind") == kind.name]
            return {"items": items, "metadata": {"resourceVersion": str(self._version)}}
        if verb == "create":
            path = f"{path}/{sent['metadata']['name']}"
            if path in self.objects:
                raise ConflictError(path, 409, "already exists")
            self.objects[path] = self._written(sent)
        elif verb == "patch" and isinstance(sent, list):
            path = path.removesuffix("/status")
            self.objects[path] = self._written(self.objects[path] | {"status": sent[-1]["value"]})
        if path not in self.objects:
            raise NotFoundError(path, 404, "none")
        return self.objects[path]

    def _written(self, item: Object) -> Object:
        self._version += 1
        made = {"uid": f"uid-{self._version}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        return {**item, "metadata": made | item["metadata"] | {"resourceVersion": str(self._version)}}

    def phase(self, name: str) -> str | None:
        phase: str | None = self.objects[RUNS.path("research", name)].get("status", {}).get("phase")
        return phase


def named(name: str) -> Object:
    whole = body()
    return whole | {"metadata": whole["metadata"] | {"name": name, "uid": name}}


def refusals() -> list[ApiError]:
    """What a server in trouble answers, or does not."""
    return [ApiError("get", status, "not now") for status in (0, 409, 422, 429, 500, 503)]


def test_ten_minutes_without_an_api_server_are_outlived() -> None:
    async def story() -> None:
        server = Server(named("first"))
        controller = Controller(Settings(resync_seconds=RESYNC_SECONDS), ticks=asyncio.get_running_loop().time)
        await controller.start(server)
        await asyncio.sleep(5)
        assert server.phase("first") == "Preparing"
        server.trouble = ApiError("get", 0, "no answer")
        await asyncio.sleep(600)
        assert server.refused >= 9, "every resync has tried"
        assert controller.stalled() is not None, "and the probe says so"
        server.trouble = None
        server.objects[RUNS.path("research", "second")] = server._written(named("second"))
        await asyncio.sleep(RESYNC_SECONDS + 2)
        assert controller.stalled() is None
        assert server.phase("second") == "Preparing", "what was made meanwhile is found"
        await controller.close()

    run(story())


def test_refusals_of_every_kind_cost_a_wait_and_nothing_else() -> None:
    async def story() -> None:
        server = Server(*(named(f"run-{number}") for number in range(5)))
        controller = Controller(Settings(resync_seconds=RESYNC_SECONDS), ticks=asyncio.get_running_loop().time)
        await controller.start(server)
        for trouble in refusals():
            server.trouble = trouble
            for key in controller.store.runs():
                controller.runner.wake(key)
            await asyncio.sleep(30)
        server.trouble = None
        await asyncio.sleep(RESYNC_SECONDS + 62)
        assert {server.phase(f"run-{number}") for number in range(5)} == {"Preparing"}
        made = [path for path in server.objects if path.endswith("-prepare")]
        assert len(made) == 5
        await controller.close()

    run(story())
