"""One pass over one run: observe, decide, write the status once, act, tell.

The order makes every crash harmless. The status is written before anything is done, so what an act destroys (a Job
that is deleted takes its pods' last words along) has been recorded by then. If the pass dies after the write, the next
one reads the record, sees the same cluster and decides the same acts; all acts are idempotent. Events come last: a
crash may lose one, and never repeats one.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from finetune_operator.backends import Addressed, Backend
from finetune_operator.lifecycle import (
    Action,
    ClearPreparation,
    DeleteRun,
    Event,
    Planning,
    StartAttempt,
    StartPreparation,
    StartPush,
    StopAttempt,
    StopPush,
    decide_pass,
    events_between,
    invalid_status,
    known_facts,
    suspect_nodes,
)
from finetune_operator.observation import Observation
from finetune_operator.planning import (
    Plan,
    PlanError,
    check_limits,
    check_push,
    make_plan,
    prepare_config,
    push_config,
    run_config,
    with_host_memory,
)
from finetune_operator.resource import InvalidResourceError, Metadata, Qwen3FineTune, parse_resource
from finetune_operator.settings import Settings
from finetune_operator.status import RecoveryStatus, Status, read_status


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What one pass came to."""

    status: Status
    """As it stands in the resource now."""
    was_written: bool
    """Whether this pass had to write it."""
    next_look_seconds: float | None
    """The next pass is due so soon even if no event comes; None: nothing will change by itself any more."""
    run: Qwen3FineTune | None = None
    """What was brought further; None: it could not be understood, or is being deleted."""


@dataclass(frozen=True, slots=True)
class _Broken:
    """A resource that cannot be understood, but can be told so."""

    metadata: Metadata


async def run_pass(body: dict[str, Any], backend: Backend, settings: Settings, now: float) -> PassResult:
    """Bring the run in `body` one pass further. `now` is in unix seconds.

    `body` is the whole resource with its status, read no earlier than the last pass wrote it: an older copy would not
    know what has been recorded. A resource that is being deleted is left alone; its children go by garbage collection.
    Raises what the backend raises: the caller runs the pass again, and nothing is lost by that.
    """
    previous, unreadable = read_status(body.get("status") or {})
    try:
        run = parse_resource(body)
    except InvalidResourceError as error:
        return await _refused_pass(body, previous, error.problems, backend, now)
    if run.metadata.deletion_timestamp is not None:
        return PassResult(status=previous, was_written=False, next_look_seconds=None)
    observation = await backend.observe(run)
    plan: Planning = cache(lambda recovery: _plan(run, previous, observation, settings, recovery))
    decision = decide_pass(run, previous, observation, plan, settings, now)
    was_written = decision.status != previous
    if was_written:
        await backend.publish_status(run, decision.status)
    for action in decision.actions:
        await _act(action, run, decision.status, plan, backend, settings)
    if unreadable and was_written:
        await _tell((_left_out(unreadable),), run, backend)
    await _tell(decision.events, run, backend)
    return PassResult(
        status=decision.status, was_written=was_written, next_look_seconds=decision.next_look_seconds, run=run
    )


def _plan(
    run: Qwen3FineTune,
    previous: Status,
    observation: Observation,
    settings: Settings,
    recovery: RecoveryStatus | None,
) -> Plan | PlanError:
    """The plan by all that is known; once it is final, by the GPU memory that it was made for."""
    model, dataset = known_facts(previous, observation.preparation)
    gpu_memory_bytes = observation.gpu_memory_bytes
    if previous.plan is not None and previous.plan.final:
        gpu_memory_bytes = previous.plan.gpu_memory_bytes
    try:
        check_limits(run, settings)
        if previous.start_time is None:
            check_push(run, settings)
        return make_plan(run, model=model, dataset=dataset, gpu_memory_bytes=gpu_memory_bytes, recovery=recovery)
    except PlanError as error:
        return error


async def _act(
    action: Action,
    run: Qwen3FineTune,
    status: Status,
    plan: Planning,
    backend: Backend,
    settings: Settings,
) -> None:
    match action:
        case StartPreparation():
            await backend.start_preparation(run, prepare_config(run, backend.locations(run)))
        case ClearPreparation():
            await backend.clear_preparation(run)
        case StartAttempt(number):
            made = plan(status.recovery)
            assert isinstance(made, Plan), "a run without a plan is refused, not started"
            await _start_attempt(run, number, status, made, backend, settings)
        case StopAttempt(number, force):
            await backend.stop_attempt(run, number, force=force)
        case StartPush(number):
            await backend.start_push(run, push_config(run, status.artifacts), number)
        case StopPush(number):
            await backend.stop_push(run, number)
        case DeleteRun():
            await backend.delete_run(run)


async def _start_attempt(
    run: Qwen3FineTune, number: int, status: Status, plan: Plan, backend: Backend, settings: Settings
) -> None:
    assert status.preparation is not None, "an attempt starts from what was prepared"
    config = run_config(
        run,
        plan,
        status.preparation,
        backend.locations(run),
        model_revision=status.model.revision if status.model else None,
        attempt=number,
        grace_seconds=settings.pods.grace_seconds,
    )
    roomy = with_host_memory(run, status.recovery)
    await backend.start_attempt(roomy, plan, config, avoided_nodes=suspect_nodes(status))


async def _refused_pass(
    body: dict[str, Any], previous: Status, problems: tuple[str, ...], backend: Backend, now: float
) -> PassResult:
    """The pass over a resource that cannot be understood: it is told so, and nothing else is touched."""
    known = body["metadata"]
    # unchecked: the name may be the very mistake
    metadata = Metadata.model_construct(
        name=known["name"], namespace=known.get("namespace", "default"), uid=known.get("uid", "")
    )
    broken = _Broken(metadata)
    status = invalid_status(previous, problems, generation=known.get("generation", 1), now=now)
    if status != previous:
        await backend.publish_status(broken, status)
        await _tell(events_between(previous, status), broken, backend)
    return PassResult(status=status, was_written=status != previous, next_look_seconds=None)


def _left_out(problems: tuple[str, ...]) -> Event:
    message = f"parts of the status could not be read and were left out: {'; '.join(problems)}"
    return Event(reason="StatusUnreadable", message=message, is_warning=True)


async def _tell(events: tuple[Event, ...], run: Addressed, backend: Backend) -> None:
    for event in events:
        await backend.publish_event(run, reason=event.reason, message=event.message, is_warning=event.is_warning)
