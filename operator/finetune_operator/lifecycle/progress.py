"""The newest figures of the current attempt, as they stand in status."""

from finetune_contract import (
    Alarm,
    CheckpointReport,
    Indicator,
    Indicators,
    Outcome,
    Progress,
    SlowestRank,
    Stage,
    TrackerReport,
    TrainingResult,
)
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import View
from finetune_operator.observation import Attempt
from finetune_operator.status import AlarmStatus, CheckpointStatus, ProgressStatus, Status, TrackerStatus

STOPPED = "Stopped"
"""The stage of figures whose attempt has ended before its time."""
_RATIOS = frozenset({Indicator.MEMORY_BALANCE, Indicator.STRAGGLER})
"""Indicators that are no shares."""
ALARM_SECONDS = 300
"""How long an indicator has to stay beyond its limit before it is called standing, and people are told."""


def with_progress(status: Status, attempt: Attempt, view: View) -> Status:
    """`status` with what rank 0 of the running `attempt` last said; figures never go back within an attempt."""
    old, new = status.progress, attempt.progress
    if new is not None and new.attempt == attempt.number and _is_news(old, new, view):
        told = progress_status(new, attempt)
        told = told.model_copy(update={"seen_at": _first_seen(told, old, view.now)})
        status = with_checkpoint(status.model_copy(update={"progress": told}), new.checkpoint)
    progress = status.progress
    if progress is None or progress.attempt != attempt.number:
        return status
    heard_at = attempt.progress_seen_at or seen_at(progress)
    is_stale = view.now - heard_at > view.settings.stale_after_seconds
    return status.model_copy(update={"progress": progress.model_copy(update={"stale": is_stale})})


def with_last_words(status: Status, attempt: Attempt) -> Status:
    """`status` with the checkpoint and the last step that workers of an `attempt` which ended told of.

    A last step is often later than the last progress: the end comes between two polls.
    """
    for outcome in (worker.outcome for worker in attempt.workers if worker.outcome is not None):
        status = _with_interventions(with_checkpoint(status, outcome.checkpoint), outcome)
        progress = status.progress
        if progress is None or progress.attempt != attempt.number or outcome.step is None or outcome.loss is None:
            continue
        if outcome.step > progress.step:
            percent = text.percent(outcome.step, progress.total_steps)
            reached = {"step": outcome.step, "percent": percent, "loss": number(outcome.loss)}
            status = status.model_copy(update={"progress": progress.model_copy(update=reached)})
    return status


def with_checkpoint(status: Status, report: CheckpointReport | None) -> Status:
    """`status` with the newest complete checkpoint that an attempt told of, if it told of one."""
    if report is None:
        return status
    told = CheckpointStatus(step=report.step, path=report.path, bytes=report.bytes)
    return status.model_copy(update={"checkpoint": told})


def _with_interventions(status: Status, outcome: Outcome) -> Status:
    """The last one is often what an attempt ends with."""
    if status.progress is None or not outcome.interventions:
        return status
    progress = status.progress.model_copy(update={"interventions": outcome.interventions})
    return status.model_copy(update={"progress": progress})


def at_rest(status: Status) -> Status:
    """`status` of a run in which nothing trains: what was reached stays, what tells of speed goes."""
    if status.progress is None:
        return status
    gone = dict.fromkeys(("eta", "tokens_per_second", "step_seconds", "samples_per_second"))
    gone |= {"stale": False, "stage": STOPPED, "alarms": ()}
    return status.model_copy(update={"progress": status.progress.model_copy(update=gone)})


def completed(status: Status, result: TrainingResult) -> Status:
    """`status` of a run that has reached its last step with `result`."""
    progress = at_rest(status).progress
    losses = {
        "loss": number(result.final_loss),
        "validation_loss": None if result.validation_loss is None else number(result.validation_loss),
    }
    if progress is not None:
        reached = {"step": result.steps, "total_steps": result.steps, "percent": "100%", "stage": str(Stage.DONE)}
        progress = progress.model_copy(update=reached | losses | _best(result))
    return status.model_copy(
        update={
            "progress": progress,
            "final_loss": losses["loss"],
            "validation_loss": losses["validation_loss"],
            "artifacts_step": result.artifacts_step,
            "stopped_early": result.stopped_early,
        }
    )


def _best(told: Progress | TrainingResult) -> dict[str, str | int | None]:
    best = told.best_validation_loss
    return {
        "best_validation_loss": None if best is None else number(best),
        "best_step": told.best_step,
        "skipped_steps": told.skipped_steps,
    }


def number(value: float) -> str:
    """A loss or another small figure: `1.2346`."""
    return f"{value:.4f}"


def progress_status(progress: Progress, attempt: Attempt | None = None) -> ProgressStatus:
    """`progress` of `attempt` in the words of status."""
    return ProgressStatus(
        attempt=progress.attempt,
        stage=progress.stage,
        step=progress.step,
        total_steps=progress.total_steps,
        percent=text.percent(progress.step, progress.total_steps),
        epoch=round(progress.epoch, 2),
        loss=None if progress.loss is None else number(progress.loss),
        validation_loss=None if progress.validation_loss is None else number(progress.validation_loss),
        **_best(progress),
        interventions=progress.interventions,
        learning_rate=None if progress.learning_rate is None else f"{progress.learning_rate:.3g}",
        tokens_per_second=None if progress.tokens_per_second is None else round(progress.tokens_per_second),
        step_seconds=None if progress.step_seconds is None else f"{progress.step_seconds:.2f}",
        eta=None if progress.eta_seconds is None else text.duration(progress.eta_seconds),
        peak_memory=None if progress.peak_memory_bytes is None else text.memory(progress.peak_memory_bytes),
        **_indicators(progress.indicators or Indicators()),
        slowest_rank=_slowest_rank(progress.slowest_rank, attempt),
        alarms=tuple(_alarm(alarm, progress.updated_at) for alarm in progress.alarms),
        trackers=tuple(_tracker(name, report) for name, report in sorted(progress.trackers.items())),
        updated_at=text.timestamp(progress.updated_at),
    )


def _indicators(told: Indicators) -> dict[str, str | None]:
    samples, imbalance = told.samples_per_second, told.memory_imbalance_ratio
    return {
        "samples_per_second": None if samples is None else f"{samples:.3g}",
        "mfu": share(told.mfu_ratio),
        "gpu_utilisation": share(told.gpu_utilisation_ratio),
        "memory_imbalance": None if imbalance is None else f"{imbalance:.2f}",
        "communication": share(told.communication_ratio),
        "data_wait": share(told.data_wait_ratio),
        "loss_trend": share(told.loss_trend_ratio),
    }


def _slowest_rank(told: SlowestRank | None, attempt: Attempt | None) -> str | None:
    """With the node of its worker, where that is known: a pod's name tells little."""
    if told is None:
        return None
    node = None if attempt is None else _node_of(told, attempt)
    return f"rank {told.rank} on {node or told.host}: {told.ratio:.2f}"


def _node_of(told: SlowestRank, attempt: Attempt) -> str | None:
    # the pods of an Indexed Job are called as their hosts are, and a random word more
    return next((each.node for each in attempt.workers if f"{each.name}-".startswith(f"{told.host}-")), None)


def _alarm(alarm: Alarm, now: float) -> AlarmStatus:
    """`now` is by the clock that `since` is by: the trainer's."""
    written = "{:.2f}".format if alarm.indicator in _RATIOS else "{:.0%}".format
    return AlarmStatus(
        indicator=alarm.indicator,
        value=written(alarm.value),
        threshold=written(alarm.threshold),
        remedy=alarm.remedy,
        since=text.timestamp(alarm.since),
        standing=now - alarm.since >= ALARM_SECONDS,
    )


def _tracker(name: str, report: TrackerReport) -> TrackerStatus:
    return TrackerStatus(name=name, state=report.state, dropped=report.dropped, url=report.url, message=report.message)


def share(ratio: float | None) -> str | None:
    """`41%`."""
    return None if ratio is None else f"{ratio:.0%}"


def seen_at(progress: ProgressStatus) -> float:
    """When the operator first saw these figures, unix seconds. The trainer's clock may be wrong."""
    return text.seconds_of(progress.seen_at or progress.updated_at)


def _first_seen(told: ProgressStatus, old: ProgressStatus | None, now: float) -> str:
    is_known = old is not None and (old.attempt, old.updated_at) == (told.attempt, told.updated_at)
    return old.seen_at if is_known and old is not None and old.seen_at is not None else text.timestamp(now)


def _is_news(old: ProgressStatus | None, new: Progress, view: View) -> bool:
    """Whether `new` is later than `old`, and `old` has stood long enough: each write costs the API server."""
    if old is None or new.attempt > old.attempt:
        return True
    if new.attempt < old.attempt or new.step < old.step:
        return False
    if new.step == old.step and new.updated_at < text.seconds_of(old.updated_at):
        return False  # with more steps done it is later, even by a clock that was put back
    if new.stage != old.stage:
        return True
    return abs(view.now - seen_at(old)) >= view.settings.progress_interval_seconds
