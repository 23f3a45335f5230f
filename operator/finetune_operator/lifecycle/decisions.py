"""One decision: records first, then acts that follow from the records, then conditions, phase, events."""

from collections.abc import Iterator

from finetune_operator.failures import Verdict
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.attempts import is_over, is_stopping
from finetune_operator.lifecycle.conditions import is_at_rest, with_conditions
from finetune_operator.lifecycle.cost import with_cost
from finetune_operator.lifecycle.decision import (
    Action,
    Decision,
    DeleteRun,
    Planning,
    StartAttempt,
    StartPreparation,
    StopAttempt,
    View,
)
from finetune_operator.lifecycle.events import events_between
from finetune_operator.lifecycle.finals import is_final
from finetune_operator.lifecycle.memory import has_undecided_attempt, remembered
from finetune_operator.lifecycle.orders import active_deadline_at, deadline_at
from finetune_operator.lifecycle.preparation import preparation_actions
from finetune_operator.lifecycle.push import next_push_at, push_actions
from finetune_operator.observation import Attempt, Observation, WorkerState
from finetune_operator.resource import Mode, Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import ConditionStatus, ConditionType, Phase, Status

KEPT_ATTEMPTS = 2
"""Ended attempts whose workers stay while the run goes on, so that their logs can be read."""

_SHORTEST_LOOK_SECONDS = 1.0
_ENDING_LOOK_SECONDS = 3.0
"""While an attempt ends: what matters now is how soon the next one can start."""
_QUEUED_LOOK_SHARE = 0.25
"""Of the time that a run has waited in a queue, which is asked for its place: the longer, the slower things change."""


def decide_pass(
    run: Qwen3FineTune,
    previous: Status,
    observation: Observation,
    plan: Planning,
    settings: Settings,
    now: float,
) -> Decision:
    """What is true of `run` now, and what is to be done. The status must be written before the first act.

    `plan` says what planning makes of the facts in `previous` and `observation`, and of what memory failures have
    changed; `now` is in unix seconds. The same
    arguments with the decided status as `previous` decide the same status and the same acts: a pass that died half-way
    is simply run again.
    """
    view = View(run=run, observation=observation, plan=plan, settings=settings, now=now)
    if is_final(previous, run):
        return _final_pass(_observed(_told_again(previous, view), run), view)
    status = remembered(previous, view)
    actions = _actions(status, view)
    status = _observed(with_conditions(_begun(status, actions, view), actions, view), run)
    status = with_cost(status, previous, view)
    return Decision(
        status=status,
        actions=actions,
        events=events_between(previous, status),
        next_look_seconds=_next_look(status, actions, view),
    )


def _begun(status: Status, actions: tuple[Action, ...], view: View) -> Status:
    """`status` with the time from which the run has objects; written before the first of them is made."""
    has_objects = view.observation.preparation is not None or view.observation.attempts
    makes_objects = any(isinstance(action, StartPreparation | StartAttempt) for action in actions)
    if status.start_time is not None or not (has_objects or makes_objects):
        return status
    return status.model_copy(update={"start_time": text.timestamp(view.now)})


def _observed(status: Status, run: Qwen3FineTune) -> Status:
    """`status`, saying that this generation of the run was seen."""
    generation = run.metadata.generation
    conditions = tuple(each.model_copy(update={"observed_generation": generation}) for each in status.conditions)
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _told_again(status: Status, view: View) -> Status:
    """What a final `status` sums up is as it was, even if somebody has written something else there."""
    said = next((each.status for each in status.conditions if each.type is ConditionType.SUCCEEDED), None)
    is_failed = status.failure is not None
    is_told = said is (ConditionStatus.FALSE if is_failed else ConditionStatus.TRUE)
    if is_told and status.phase is (Phase.FAILED if is_failed else Phase.SUCCEEDED):
        return status
    return with_conditions(status, (), view)


def _final_pass(status: Status, view: View) -> Decision:
    """Nothing is started any more: leftovers go, and after its time the resource itself."""
    actions = (*_ends(status, view), *push_actions(status, view))
    ttl_seconds = view.run.spec.scheduling.ttl_seconds_after_finished
    if ttl_seconds is not None and is_at_rest(view):
        assert status.completion_time is not None
        if view.now >= text.seconds_of(status.completion_time) + ttl_seconds:
            return Decision(status=status, actions=(*actions, DeleteRun()))
    return Decision(status=status, actions=actions, next_look_seconds=_next_look(status, actions, view))


def _actions(status: Status, view: View) -> tuple[Action, ...]:
    """The acts that follow from the records, in order."""
    ends = _ends(status, view)
    if status.artifacts:
        return (*ends, *push_actions(status, view))
    if status.completion_time is not None or view.run.spec.suspend:
        return ends
    if status.preparation is None:
        return (*ends, *preparation_actions(view.observation.preparation, is_wanted=True))
    return (*ends, *_old_attempts(view), *_next_attempt(status, view))


def _ends(status: Status, view: View) -> tuple[Action, ...]:
    """What must not run any more is told to stop, or removed."""
    records = {record.number: record for record in status.attempts}
    stops: list[Action] = []
    for attempt in view.observation.attempts:
        record = records.get(attempt.number)
        if record is None or is_over(attempt):
            continue
        if record.decision is not None:
            stops.append(StopAttempt(attempt.number, force=True))
        elif is_stopping(record) and record.ended_at is not None:
            is_late = view.now - text.seconds_of(record.ended_at) >= view.stop_seconds
            stops.append(StopAttempt(attempt.number, force=is_late))
    if status.completion_time is not None or view.run.spec.suspend:
        stops.extend(preparation_actions(view.observation.preparation, is_wanted=False))
    return tuple(stops)


def _old_attempts(view: View) -> tuple[Action, ...]:
    """Attempts that ended long ago are cleared away."""
    over = [attempt for attempt in view.observation.attempts[:-KEPT_ATTEMPTS] if is_over(attempt)]
    return tuple(StopAttempt(attempt.number, force=False) for attempt in over if not attempt.is_being_deleted)


def _next_attempt(status: Status, view: View) -> tuple[Action, ...]:
    """The next attempt, once the last one asks for it and no worker of any earlier one is left."""
    observed: tuple[Attempt, ...] = view.observation.attempts
    may_start = view.run.spec.mode is Mode.RUN and not has_undecided_attempt(status)
    if not may_start or not all(is_over(attempt) for attempt in observed):
        return ()
    assert all(record.decision not in (Verdict.FINISH, Verdict.GIVE_UP) for record in status.attempts)
    numbers = [attempt.number for attempt in observed] + [record.number for record in status.attempts]
    return (StartAttempt(max(numbers, default=0) + 1),)


def _deadlines(status: Status, view: View) -> Iterator[float]:
    """When a limit of the spec will have been reached, unix seconds."""
    if (first_step := deadline_at(status, view)) is not None:
        yield first_step
    for record in status.attempts:
        if record.decision is None and (used_up := active_deadline_at(record, status, view)) is not None:
            yield used_up


def _has_running_worker(observation: Observation) -> bool:
    newest = observation.current
    return newest is not None and any(worker.state is WorkerState.RUNNING for worker in newest.workers)


def _next_look(status: Status, actions: tuple[Action, ...], view: View) -> float | None:
    settings, looks = view.settings, []
    is_ending = any(record.ended_at and not record.decision for record in status.attempts)
    if is_ending or any(isinstance(action, StopAttempt) for action in actions):
        looks.append(_ENDING_LOOK_SECONDS)
    if status.completion_time is None:
        # rank 0 has to be asked; of everything else the backend's own events tell
        has_progress = has_undecided_attempt(status) and _has_running_worker(view.observation)
        looks.append(settings.progress_interval_seconds if has_progress else settings.resync_seconds)
        looks += [deadline - view.now for deadline in _deadlines(status, view)]
        if (attempt := view.observation.current) is not None and attempt.place is not None:
            looks.append((view.now - attempt.created_at) * _QUEUED_LOOK_SHARE)
        if (push_at := next_push_at(status)) > view.now:
            looks.append(push_at - view.now)
    elif (ttl_seconds := view.run.spec.scheduling.ttl_seconds_after_finished) is not None:
        looks.append(text.seconds_of(status.completion_time) + ttl_seconds - view.now)
    return max(_SHORTEST_LOOK_SECONDS, min(looks)) if looks else None
