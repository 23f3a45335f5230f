"""A run on this machine, opened: what was asked for now, held against what was started before."""

import fcntl
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_contract.paths import PUSH_TOKEN_ENV
from finetune_operator.backends.local import LocalBackend, Machine, RunFolder, missing_secrets, read_json, write_json
from finetune_operator.cli.documents import Document, parsed
from finetune_operator.lifecycle import reopened, text
from finetune_operator.resource import InvalidResourceError, Qwen3FineTune, parse_resource
from finetune_operator.settings import Coscheduling, Fabric, Gangs, Kueue, Limits, Settings, Volcano
from finetune_operator.status import Status

LOOK_SECONDS = 0.5
"""How often the run is looked at."""

_FREE_TO_CHANGE: dict[str, set[str] | bool] = {
    **dict.fromkeys(("suspend", "mode", "scheduling", "recovery", "resources", "storage"), True),
    "output": {"push"},
}
"""What of the spec does not decide what is trained: blocks, and fields of a block."""


class RunRefusedError(ValueError):
    """The run cannot be worked on here; the text says what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """One run, ready to be driven."""

    run: Qwen3FineTune
    folder: RunFolder
    settings: Settings
    earlier: Status
    """As the last command left it."""

    def body(self, *, is_suspended: bool) -> dict[str, Any]:
        """The whole resource as a pass takes it; `is_suspended`: the user has asked for a stop."""
        body: dict[str, Any] = self.run.model_dump(mode="json", by_alias=True)
        body["status"] = read_json(self.folder.status_file) or {}
        body["spec"]["suspend"] = is_suspended
        return body


def with_push_token(environment: Mapping[str, str], file: Path | None) -> dict[str, str]:
    """`environment` with the token that may write to a hub, if it is kept in a file. Raises RunRefusedError."""
    if file is None:
        return dict(environment)
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RunRefusedError(f"--push-token {file}: cannot be read: {error}") from None
    if not token:
        raise RunRefusedError(f"--push-token {file}: the file is empty; put a token that may write into it")
    return {**environment, PUSH_TOKEN_ENV: token}


def with_workers(document: Document, workers: int | None, machine: Machine) -> Qwen3FineTune:
    """The run in `document` with so many ranks on this machine. Raises DocumentError, RunRefusedError.

    The global batch stays as it is, so the optimisation does, too.
    """
    run = parsed(document)
    if workers is not None:
        spec = document.body["spec"]
        parallelism = {**(spec.get("parallelism") or {}), "nodes": 1, "gpusPerNode": workers}
        try:
            run = parse_resource({**document.body, "spec": {**spec, "parallelism": parallelism}})
        except InvalidResourceError as error:
            raise RunRefusedError(f"--workers {workers}: {error}") from None
    ranks, samples = run.spec.parallelism.world_size, run.spec.training.global_batch.samples
    if machine.gpus and ranks > len(machine.gpus):
        legal = ", ".join(str(count) for count in range(1, len(machine.gpus) + 1) if samples % count == 0)
        raise RunRefusedError(
            f"spec.parallelism: {ranks} GPUs are asked for, and this machine has {len(machine.gpus)}; with --workers "
            f"{legal} the global batch of {samples} stays as it is"
        )
    return run


def opened(run: Qwen3FineTune, backend: LocalBackend, environment: Mapping[str, str]) -> OpenRun:
    """`run`, held against what its folder knows. Raises RunRefusedError when it may not go on as it is written now."""
    if run.spec.suspend:
        raise RunRefusedError("spec.suspend: true; set it to false to run it here (Ctrl-C saves and stops)")
    if missing := missing_secrets(run, environment):
        raise RunRefusedError("\n".join(missing))
    folder = backend.folder(run)
    stored, status = read_json(folder.resource_file), Status.model_validate(read_json(folder.status_file) or {})
    uid = str(uuid.uuid4())
    if stored is not None:
        before = parse_resource(stored)
        uid, status = before.metadata.uid, _carried_over(status, before, run, folder)
    # every command waits for the first step anew: what lies between two of them is nobody's delay
    identity = {"uid": uid, "creation_timestamp": text.timestamp(time.time())}
    run = run.model_copy(update={"metadata": run.metadata.model_copy(update=identity)})
    write_json(folder.resource_file, run.model_dump(mode="json", by_alias=True))
    write_json(folder.status_file, status.to_body())
    return OpenRun(run=run, folder=folder, settings=_settings(run), earlier=status)


@contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Nobody else looks after this run meanwhile. Raises RunRefusedError when somebody does."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with open(folder.lock_file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunRefusedError(f"{folder.path}: another qft looks after this run already") from None
        yield


def _carried_over(status: Status, before: Qwen3FineTune, now: Qwen3FineTune, folder: RunFolder) -> Status:
    """What the earlier status means for the run as it is written now."""
    changed = changed_fields(before, now)
    if not status.attempts:
        # nothing was trained yet; what was prepared is found again in the cache by its content
        if not changed and status.completion_time is None:
            return status
        LocalBackend.forget_preparation(folder, before.metadata.uid)
        return Status()
    if changed:
        raise RunRefusedError(
            f"{folder.path} holds a run that was started with other settings: {'; '.join(changed)}. Change "
            "metadata.name to begin another run, or delete that folder to begin this one anew"
        )
    return reopened(status)


def changed_fields(before: Qwen3FineTune, now: Qwen3FineTune) -> tuple[str, ...]:
    """`spec.training.seed was 1 and is 2`, for every field that decides what is trained."""
    old, new = (each.spec.model_dump(mode="json", by_alias=True, exclude=_FREE_TO_CHANGE) for each in (before, now))
    return tuple(_differences("spec", old, new))


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(f"{path}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{path} was {old} and is {new}"


def _settings(run: Qwen3FineTune) -> Settings:
    """The person at the machine is the admin, and every look may be written.

    Queues, gangs, priorities and fabrics are a cluster's: what the spec names of them is let pass, and does nothing.
    """
    scheduling, fabric = run.spec.scheduling, run.spec.parallelism.fabric
    limits = Limits(
        max_gpus_per_node=16,
        max_nodes=1024,
        priority_classes=tuple(filter(None, [scheduling.priority_class])),
        queues=("*",),
        queue_priority_classes=tuple(filter(None, [scheduling.queue_priority_class])),
        s3_endpoints=("*",),
    )
    gangs = Gangs(kueue=Kueue(enabled=True), volcano=Volcano(enabled=True), coscheduling=Coscheduling(enabled=True))
    fabrics = {} if fabric is None else {fabric: Fabric()}
    return Settings(limits=limits, gangs=gangs, fabrics=fabrics, progress_interval_seconds=LOOK_SECONDS)
