"""An operator in this process that can be killed after any single write, and the cluster that goes on without it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from finetune_contract import ExitCode
from finetune_operator.backends.kubernetes import pods
from finetune_operator.backends.kubernetes.client import Api, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import RUNS, WATCHED, Kind, selector
from finetune_operator.controller import Controller
from finetune_operator.names import PUSH_ROLE, ROLE_LABEL
from finetune_operator.observation import WorkerState
from finetune_operator.settings import Settings
from support import runs
from support.kubelet import Kubelet

WRITES = frozenset({"create", "apply", "patch", "delete"})
LOOK_SECONDS = 0.2


class DeadError(Exception):
    """The process is gone: nothing that it still tries happens."""


class MortalApi(Api):
    """Lets `lives` writes through; the process dies with the last of them, before it hears the answer."""

    def __init__(self, api: Api, lives: int | None) -> None:
        super().__init__(api._client)
        self.writes = 0
        self.died = asyncio.Event()
        self._lives = lives

    async def call(self, verb: str, kind: Kind, path: str, **options: Any) -> Object:
        """As the real one, as long as the process lives."""
        if self.died.is_set():
            raise DeadError
        answer = await super().call(verb, kind, path, **options)
        if verb in WRITES:
            self.writes += 1
            if self.writes == self._lives:
                self.died.set()
                raise DeadError
        return answer

    async def close(self) -> None:
        """The connections are the test's."""


class MortalOperator:
    """Controllers one after the other, each with a store and a backend of its own; watches are played by lists."""

    def __init__(self, api: Api, namespace: str, settings: Settings) -> None:
        self._api = api
        self._namespace = namespace
        self._settings = settings
        self._controller: Controller | None = None
        self.mortal: MortalApi | None = None

    async def start(self, lives: int | None = None) -> None:
        """A new process, which dies after `lives` writes."""
        self.mortal = MortalApi(self._api, lives)
        self._controller = Controller(self._settings, (self._namespace,))
        with contextlib.suppress(DeadError):
            await self._controller.start(self.mortal)

    async def stop(self) -> None:
        """Nothing of the process is left."""
        if self._controller is not None:
            await self._controller.close()

    async def tell_news(self) -> None:
        """What watches would bring since the last time."""
        assert self._controller is not None
        for kind in WATCHED:
            items, version = await self._api.list_all(kind, self._namespace, labels=selector(kind))
            for item in items:
                self._controller.saw(kind, item, is_gone=False)
            listed = {item["metadata"]["uid"] for item in items}
            for key in self._controller.store.keep_listed(kind, listed, version, self._namespace):
                self._controller.runner.wake(key)

    @property
    def is_dead(self) -> bool:
        """Whether the last write of its life is done."""
        return self.mortal is not None and self.mortal.died.is_set()


class PlayedCluster:
    """A preparation that works, a first attempt whose rank 1 breaks, a second one that reaches its end; a push."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._kubelet = Kubelet(api)
        self._namespace = namespace

    async def step(self) -> None:
        """Moves every pod on by one."""
        for pod in await self._kubelet.pods(self._namespace):
            with contextlib.suppress(NotFoundError):
                await self._move(pod)

    async def _move(self, pod: Object) -> None:
        state, attempt = pods.state(pod), pods.attempt_number(pod)
        if pods.is_terminating(pod):
            if state is WorkerState.RUNNING:
                await self._kubelet.exit(pod, 143)
            else:
                await self._kubelet.remove(pod)
        elif state is WorkerState.WAITING:
            await self._kubelet.run(pod)
        elif state is WorkerState.RUNNING:
            await self._end(pod, attempt)

    async def _end(self, pod: Object, attempt: int | None) -> None:
        if pod["metadata"]["labels"][ROLE_LABEL] == PUSH_ROLE:
            await self._kubelet.end(pod, runs.pushed_outcome())
        elif attempt is None:
            await self._kubelet.end(pod, runs.prepared())
        elif attempt == 1 and pods.node_rank(pod) == 1:
            await self._kubelet.end(pod, runs.failed_outcome(ExitCode.INFRASTRUCTURE, "NcclError", rank=1))
        elif attempt > 1:
            await self._kubelet.end(pod, runs.done_outcome())


async def live_through(
    api: Api, namespace: str, name: str, settings: Settings, lives: int | None, timeout: float = 120
) -> tuple[int, Object]:
    """The run's whole life, with one death after `lives` writes; writes of the first process, and the last status."""
    operator, cluster = MortalOperator(api, namespace, settings), PlayedCluster(api, namespace)
    await operator.start(lives)
    first = operator.mortal
    assert first is not None
    async with asyncio.timeout(timeout):
        while True:
            if operator.is_dead:
                await operator.stop()
                await operator.start()
            await cluster.step()
            await operator.tell_news()
            status: Object = (await api.get(RUNS, namespace, name)).get("status", {})
            if status.get("phase") in ("Succeeded", "Failed") and not operator.is_dead:
                await _until_quiet(operator)
                break
            await asyncio.sleep(LOOK_SECONDS)
    await operator.stop()
    return first.writes, (await api.get(RUNS, namespace, name))["status"]


async def _until_quiet(operator: MortalOperator) -> None:
    """A few more looks: what is written after the end belongs to the run's life too."""
    for _ in range(5):
        await operator.tell_news()
        await asyncio.sleep(LOOK_SECONDS)


async def in_batches(works: list[Callable[[], Awaitable[Any]]], size: int) -> list[Any]:
    """The results of all, `size` at a time."""
    gate = asyncio.Semaphore(size)

    async def one(work: Callable[[], Awaitable[Any]]) -> Any:
        async with gate:
            return await work()

    return await asyncio.gather(*(one(work) for work in works))
