"""The push of what a run has made: its record, and what brings it on its way.

Training is over by then and its artifacts are recorded, so whatever becomes of a push, they stay. A push that is
refused ends the run as failed, with its artifacts; at the next change of the spec it is done again, and nothing else.
So it is when a run has succeeded and spec.output.push names another place afterwards.
"""

from finetune_operator.failures import Budget, Cause, Ending, Verdict, classify_push, decide
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import Action, StartPush, StopPush, View
from finetune_operator.lifecycle.finals import given_up, is_push_owed
from finetune_operator.observation import Push, WorkerState
from finetune_operator.planning import PlanError, check_push, push_request
from finetune_operator.status import ArtifactStatus, PushedStatus, PushStatus, Status

FIRST_PAUSE_SECONDS = 60
LONGEST_PAUSE_SECONDS = 600
"""Between two pushes of which the first failed for want of an answer; it has tried for a minute by itself."""

_MESSAGE_LIMIT = 1024
_KEPT = (
    "the training is complete, and what it made is kept (status.artifacts). Once this is mended, any change of the"
    " spec repeats the push alone: mend spec.output.push, or set spec.suspend to true and back"
)


def with_push(status: Status, view: View) -> Status:
    """`status` of a run whose training is over, with what became of its push; final when there is none left to do."""
    status = _recorded(status, view)
    if not is_push_owed(status, view.run):
        is_under_way = status.push is not None and status.push.decision is None
        return status if is_under_way else status.model_copy(update={"completion_time": text.timestamp(view.now)})
    try:
        check_push(view.run, view.settings)
    except PlanError as error:
        return given_up(status, error.reason, f"{error}; {_KEPT}", view)
    record = status.push
    if record is not None and record.decision == Verdict.GIVE_UP and record.request == _request(view):
        return given_up(status, record.reason or str(record.cause), f"{record.message}; {_KEPT}", view)
    return status


def push_actions(status: Status, view: View) -> tuple[Action, ...]:
    """What starts the push that is owed, or ends one that nobody wants any more."""
    seen, record = view.observation.push, status.push
    is_wanted = not view.run.spec.suspend and status.completion_time is None and is_push_owed(status, view.run)
    if seen is not None and seen.is_alive:
        is_current = is_wanted and seen.request == _request(view)
        return () if is_current or seen.is_being_deleted else (StopPush(seen.number),)
    is_under_way = record is not None and record.decision is None
    if not is_wanted or is_under_way or view.now < next_push_at(status):
        return ()
    numbers = [each.number for each in (seen, record) if each is not None]
    start = StartPush(max(numbers, default=0) + 1)
    return (start,) if seen is None else (StopPush(seen.number), start)


def next_push_at(status: Status) -> float:
    """When the next push may start, unix seconds; 0: at once."""
    record = status.push
    if record is None or record.decision != Verdict.RETRY or record.ended_at is None:
        return 0.0
    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS << max(0, record.failures - 1))
    return text.seconds_of(record.ended_at) + pause


def _request(view: View) -> str | None:
    push = view.run.spec.output.push
    return None if push is None else push_request(push)


def _recorded(status: Status, view: View) -> Status:
    """`status` with the record of the newest push brought up to date."""
    seen, record = view.observation.push, status.push
    if seen is not None and (record is None or seen.number > record.number):
        record = PushStatus(
            number=seen.number,
            target=seen.target,
            request=seen.request,
            started_at=text.timestamp(seen.created_at),
            failures=record.failures if record is not None and record.request == seen.request else 0,
        )
    if record is None or record.decision is not None:
        return status
    is_seen = seen is not None and seen.number == record.number
    ending = _ending(seen if is_seen else None, record, view)
    if ending is None:
        return status.model_copy(update={"push": record})
    return _decided(status, record, ending, view)


def _ending(seen: Push | None, record: PushStatus, view: View) -> Ending | None:
    """How the push ended; None: it has not."""
    if seen is not None and seen.is_alive:
        return None
    if seen is not None and (seen.state is WorkerState.SUCCEEDED or seen.outcome is not None):
        return classify_push(seen)
    if view.run.spec.suspend or record.request != _request(view):
        return Ending(cause=Cause.SUSPENDED, reason=Cause.SUSPENDED, message="it was not wanted any more")
    if seen is None:
        gone = "its pod is gone without a trace; it may have been deleted by hand"
        return Ending(cause=Cause.INFRASTRUCTURE, reason="WorkersGone", message=gone)
    return classify_push(seen)


def _decided(status: Status, record: PushStatus, ending: Ending, view: View) -> Status:
    budget = Budget(failures=record.failures, max_restarts=view.run.spec.recovery.max_restarts)
    verdict = decide(ending, budget)
    decided = record.model_copy(
        update={
            "ended_at": text.timestamp(view.now),
            "failures": record.failures + (verdict is Verdict.RETRY),
            "cause": str(ending.cause),
            "reason": ending.reason,
            "message": text.shortened(ending.message, _MESSAGE_LIMIT),
            "decision": str(verdict),
        }
    )
    artifacts = status.artifacts
    if verdict is Verdict.FINISH:
        assert view.observation.push is not None, "a push is done by its outcome alone"
        artifacts = _with_places(artifacts, view.observation.push)
    return status.model_copy(update={"push": decided, "artifacts": artifacts})


def _with_places(artifacts: tuple[ArtifactStatus, ...], push: Push) -> tuple[ArtifactStatus, ...]:
    assert push.outcome is not None, "a push is done by its outcome alone"
    places = {each.kind: PushedStatus(url=each.url, commit=each.commit) for each in push.outcome.pushed}
    return tuple(
        artifact.model_copy(update={"pushed": places[artifact.kind]}) if artifact.kind in places else artifact
        for artifact in artifacts
    )
