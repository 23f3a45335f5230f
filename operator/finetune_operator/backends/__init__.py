"""Where runs live: one file per backend, and the few verbs that all of them have."""

from typing import Protocol

from finetune_contract import PrepareConfig, PushConfig, RunConfig
from finetune_operator.observation import Observation
from finetune_operator.planning import Locations, Plan
from finetune_operator.resource import Metadata, Qwen3FineTune
from finetune_operator.status import Status


class Addressed(Protocol):
    """What says which resource it is: a run, or a resource too broken to be read as one."""

    @property
    def metadata(self) -> Metadata:
        """Name, namespace and uid."""
        ...


class Backend(Protocol):
    """How workers start, stop and are seen; everything else is the same on a cluster and on a laptop.

    Every verb is idempotent: it brings about a state, and does nothing where that state is.
    """

    def locations(self, run: Qwen3FineTune) -> Locations:
        """Where the trainer finds and leaves things, in the trainer's own file system."""
        ...

    async def observe(self, run: Qwen3FineTune) -> Observation:
        """What exists of `run` now."""
        ...

    async def start_preparation(self, run: Qwen3FineTune, config: PrepareConfig) -> None:
        """Volumes and the CPU-only preparation are there."""
        ...

    async def clear_preparation(self, run: Qwen3FineTune) -> None:
        """The preparation's workers are gone; what they wrote into the cache stays."""
        ...

    async def start_attempt(
        self, run: Qwen3FineTune, plan: Plan, config: RunConfig, *, avoided_nodes: tuple[str, ...]
    ) -> None:
        """The workers of attempt `config.attempt` are there, on other nodes than these where there is room for them."""
        ...

    async def stop_attempt(self, run: Qwen3FineTune, number: int, *, force: bool) -> None:
        """The workers of attempt `number` are told to save and stop; with `force` they are removed without waiting."""
        ...

    async def start_push(self, run: Qwen3FineTune, config: PushConfig, number: int) -> None:
        """The pod of push `number` is there."""
        ...

    async def stop_push(self, run: Qwen3FineTune, number: int) -> None:
        """The pod of push `number` goes."""
        ...

    async def publish_status(self, run: Addressed, status: Status) -> None:
        """`status` stands in the resource; the only place where status is written."""
        ...

    async def publish_event(self, run: Addressed, *, reason: str, message: str, is_warning: bool) -> None:
        """People who look at the run can read this."""
        ...

    async def delete_run(self, run: Qwen3FineTune) -> None:
        """The resource itself is gone (its time after finishing is over)."""
        ...
