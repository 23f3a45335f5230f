"""What a run has cost: added up from the times in its attempts' records, and from nothing else.

The sums are brought up to date only when the status is written for another reason. They never fall: what was done since
the newest checkpoint counts as useful when the next one is there, and is lost when none comes.
"""

from dataclasses import dataclass

from finetune_operator.failures import Verdict
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.attempts import has_live_worker
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.orders import has_stepped
from finetune_operator.status import AttemptStatus, CostStatus, EarlierCostStatus, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spent:
    """By one attempt, in seconds of each of its GPUs."""

    held: int = 0
    useful: int = 0
    lost: int = 0
    pending: int = 0
    """Since the newest checkpoint of an attempt that goes on: not known yet whether it will be kept."""
    queued: int = 0


def with_times(record: AttemptStatus, before: Status, after: Status, now: float) -> AttemptStatus:
    """`record` of an attempt under way, with the times that its cost is counted by.

    `before` and `after` are the run's status before and after this look at the attempt.
    """
    news: dict[str, object] = {}
    if record.first_step_at is None and has_stepped(record):
        news["first_step_at"] = text.timestamp(now)
    if after.checkpoint is not None and after.checkpoint.step > _saved_step(before, record):
        news["saved_at"] = text.timestamp(now)
    return record.model_copy(update=news) if news else record


def with_released_gpus(status: Status, view: View) -> Status:
    """`status` with the time at which each attempt's GPUs were free."""
    observed = {attempt.number: attempt for attempt in view.observation.attempts}

    def released(record: AttemptStatus) -> AttemptStatus:
        attempt = observed.get(record.number)
        is_held = attempt is not None and has_live_worker(attempt)
        if record.running_since is None or record.released_at is not None or is_held:
            return record
        return record.model_copy(update={"released_at": text.timestamp(view.now)})

    return status.model_copy(update={"attempts": tuple(released(record) for record in status.attempts)})


def with_cost(status: Status, previous: Status, view: View) -> Status:
    """`status` with what the run has cost until now; untouched where nothing else is to be written."""
    if status == previous or not status.attempts:
        return status
    listed = {record.number for record in status.attempts}
    earlier = _earlier(status, [record for record in previous.attempts if record.number not in listed], view)
    gpu_seconds, useful, lost, queued, pending = 0, 0, 0, 0, 0
    for record in status.attempts:
        spent, gpus = _spent(record, status, view.now), _gpus(record, status)
        gpu_seconds += gpus * spent.held
        useful += gpus * spent.useful
        lost += gpus * spent.lost
        pending += gpus * spent.pending
        queued += spent.queued
    gpu_seconds += earlier.gpu_seconds
    useful += earlier.useful_gpu_seconds
    cost = CostStatus(
        gpu_seconds=gpu_seconds,
        useful_gpu_seconds=useful,
        lost_gpu_seconds=lost + earlier.lost_gpu_seconds,
        queued_seconds=queued + earlier.queued_seconds,
        goodput=text.percent(useful + pending, gpu_seconds) if gpu_seconds else None,
        price=_price(gpu_seconds, view),
        earlier=earlier if earlier != EarlierCostStatus() else None,
    )
    return status.model_copy(update={"cost": cost})


def _saved_step(status: Status, record: AttemptStatus) -> int:
    known = 0 if status.checkpoint is None else status.checkpoint.step
    return max(known, record.resumed_from_step or 0)


def _earlier(status: Status, dropped: list[AttemptStatus], view: View) -> EarlierCostStatus:
    """The sums of attempts that are listed no longer, with those that have just been dropped."""
    known = status.cost.earlier if status.cost is not None else None
    earlier = known or EarlierCostStatus()
    for record in dropped:
        spent, gpus = _spent(record, status, view.now), _gpus(record, status)
        earlier = EarlierCostStatus(
            gpu_seconds=earlier.gpu_seconds + gpus * spent.held,
            useful_gpu_seconds=earlier.useful_gpu_seconds + gpus * spent.useful,
            lost_gpu_seconds=earlier.lost_gpu_seconds + gpus * spent.lost,
            queued_seconds=earlier.queued_seconds + spent.queued,
        )
    return earlier


def _gpus(record: AttemptStatus, status: Status) -> int:
    """Of an attempt; one that an earlier release recorded had those of the plan."""
    return record.gpus or (status.plan.gpus if status.plan is not None else 0)


def _spent(record: AttemptStatus, status: Status, now: float) -> _Spent:
    until = record.released_at or status.completion_time
    gone = text.seconds_of(until) if until is not None else now
    ended = min(gone, text.seconds_of(record.ended_at) if record.ended_at is not None else now)
    running = text.seconds_of(record.running_since) if record.running_since is not None else None
    queued = _between(text.seconds_of(record.started_at), running if running is not None else ended)
    if running is None:
        return _Spent(queued=queued)
    held = _between(running, gone)
    if not has_stepped(record):
        return _Spent(held=held, lost=held if record.decision is not None else 0, queued=queued)
    first_step = text.seconds_of(record.first_step_at) if record.first_step_at is not None else running
    kept_until = _kept_until(record, first_step, ended)
    unsaved = _between(kept_until, ended)
    again = _between(running, first_step) if record.number > 1 else 0
    return _Spent(
        held=held,
        useful=_between(first_step, kept_until),
        lost=again + (unsaved if record.decision is not None else 0),
        pending=unsaved if record.decision is None else 0,
        queued=queued,
    )


def _kept_until(record: AttemptStatus, first_step: float, ended: float) -> float:
    """Up to when the steps of an attempt are known to be kept."""
    if record.decision == Verdict.FINISH or (record.gpus is None and record.decision is not None):
        return ended  # an earlier release's record does not tell; few steps are lost as a rule
    saved = text.seconds_of(record.saved_at) if record.saved_at is not None else first_step
    return min(ended, max(first_step, saved))


def _between(start: float, end: float) -> int:
    return max(0, int(end) - int(start))


def _price(gpu_seconds: int, view: View) -> str | None:
    pricing = view.settings.pricing
    per_hour = pricing.per_gpu_hour.get(view.run.spec.resources.gpu_resource)
    return None if per_hour is None else f"{gpu_seconds / 3600 * per_hour:.2f} {pricing.currency}".strip()
