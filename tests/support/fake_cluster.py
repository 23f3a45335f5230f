"""A backend that is a dict: it records writes, and dies after one of them if it is told to."""

import dataclasses
from typing import Any

from finetune_contract import PrepareConfig, PushConfig, RunConfig
from finetune_operator.backends import Addressed
from finetune_operator.observation import Attempt, Observation, Preparation, Push, WorkerState
from finetune_operator.planning import Locations, Plan, push_request, push_target
from finetune_operator.reconcile import PassResult, run_pass
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import Status, read_status
from support.runs import START, there, worker


class CrashError(Exception):
    """The operator's process ended."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an attempt was started with."""

    run: Qwen3FineTune
    config: RunConfig
    avoided_nodes: tuple[str, ...]


class FakeCluster:
    """Holds one resource and its children; tests move the children on, the operator makes and removes them."""

    def __init__(self, body: dict[str, Any], *, crash_after: int | None = None) -> None:
        self.body = body
        self.now = START
        self.settings = Settings()
        self.preparation: Preparation | None = None
        self.attempts: dict[int, Attempt] = {}
        self.pushes: dict[int, Push] = {}
        self.started: list[int] = []
        self.told: dict[int, Told] = {}
        self.pushed: list[PushConfig] = []
        """What every push that was started was told."""
        self.writes: list[str] = []
        self.events: list[str] = []
        self.is_deleted = False
        self._crash_after = crash_after

    def dies_after(self, writes: int | None) -> None:
        """The operator's next death comes after so many more writes; None: it lives."""
        self._crash_after = None if writes is None else len(self.writes) + writes

    @property
    def status(self) -> Status:
        return read_status(self.body.get("status") or {})[0]

    async def one_pass(self) -> PassResult:
        return await run_pass(self.body, self, self.settings, self.now)

    def locations(self, run: Qwen3FineTune) -> Locations:
        return Locations(cache_dir="/cache", inputs_dir="/inputs", output_dir="/output/huanhuan", progress_port=29501)

    async def observe(self, run: Qwen3FineTune) -> Observation:
        attempts = tuple(self.attempts[number] for number in sorted(self.attempts))
        push = self.pushes[max(self.pushes)] if self.pushes else None
        return Observation(preparation=self.preparation, attempts=attempts, push=push, output_claim="huanhuan-output")

    async def start_preparation(self, run: Qwen3FineTune, config: PrepareConfig) -> None:
        if self.preparation is None:
            self.preparation = Preparation(state=WorkerState.WAITING, created_at=self.now)
            self._wrote("start preparation")

    async def clear_preparation(self, run: Qwen3FineTune) -> None:
        if self.preparation is not None:
            self.preparation = None
            self._wrote("clear preparation")

    async def start_attempt(
        self, run: Qwen3FineTune, plan: Plan, config: RunConfig, *, avoided_nodes: tuple[str, ...]
    ) -> None:
        number = config.attempt
        self.told[number] = Told(run=run, config=config, avoided_nodes=avoided_nodes)
        if number not in self.attempts:
            workers = tuple(worker(index, WorkerState.WAITING) for index in range(plan.nodes))
            self.attempts[number] = Attempt(number=number, workers=workers, num_nodes=plan.nodes, created_at=self.now)
            self.started.append(number)
            self._wrote(f"start attempt {number}")

    async def stop_attempt(self, run: Qwen3FineTune, number: int, *, force: bool) -> None:
        attempt = self.attempts.get(number)
        if attempt is None:
            return
        if force or not any(each.state in (WorkerState.WAITING, WorkerState.RUNNING) for each in attempt.workers):
            del self.attempts[number]
            self._wrote(f"remove attempt {number}")
        elif not attempt.is_being_deleted:
            workers = tuple(dataclasses.replace(each, is_terminating=True) for each in attempt.workers)
            self.attempts[number] = dataclasses.replace(attempt, workers=workers, is_being_deleted=True)
            self._wrote(f"stop attempt {number}")

    async def start_push(self, run: Qwen3FineTune, config: PushConfig, number: int) -> None:
        wanted = there(run.spec.output.push)
        if number not in self.pushes:
            self.pushes[number] = Push(
                number=number,
                target=push_target(run, wanted),
                request=push_request(wanted),
                state=WorkerState.WAITING,
                created_at=self.now,
            )
            self.pushed.append(config)
            self._wrote(f"start push {number}")

    async def stop_push(self, run: Qwen3FineTune, number: int) -> None:
        if number in self.pushes:
            del self.pushes[number]
            self._wrote(f"remove push {number}")

    async def publish_status(self, run: Addressed, status: Status) -> None:
        self.body = self.body | {"status": status.to_body()}
        self._wrote("status")

    async def publish_event(self, run: Addressed, *, reason: str, message: str, is_warning: bool) -> None:
        self.events.append(reason)

    async def delete_run(self, run: Qwen3FineTune) -> None:
        self.is_deleted = True
        self._wrote("delete run")

    def _wrote(self, what: str) -> None:
        self.writes.append(what)
        if len(self.writes) == self._crash_after:
            raise CrashError(what)
