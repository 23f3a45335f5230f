"""Whether an attempt stands still for longer than its own launchers should have allowed it to.

A trainer ends itself when its ranks hang, and knows far more about it (see finetune_contract.patience and the trainer's
`watch`). So this is for what cannot: a frozen pod, a dead node that still counts as Running, a launcher that hangs. It
waits longer than the trainer does, so that the better account comes first.

What rank 0 says of itself counts, and while it says nothing, how long that has been so. The silence is noted in the
status: whatever was missed while the operator was away is no sign of a hang.
"""

from finetune_contract import Stage, patience_seconds, phase_words
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import View
from finetune_operator.observation import Attempt
from finetune_operator.status import AttemptStatus, Status

LATER_SECONDS = 180
"""How much longer this waits than a trainer does: a launcher takes up to 80 seconds to collect stacks."""


def silent_since(record: AttemptStatus, attempt: Attempt, view: View) -> str | None:
    """Since when rank 0 of the running `attempt` tells nothing; None while it is heard."""
    if record.running_since is None:
        return None
    heard_at = _heard_at(record, attempt, view)
    if heard_at is not None and view.now - heard_at <= view.settings.stale_after_seconds:
        return None
    return record.silent_since or text.timestamp(view.now if heard_at is None else heard_at)


def stall_message(record: AttemptStatus, attempt: Attempt, status: Status, view: View) -> str | None:
    """Why `attempt` counts as hung; None: it does not."""
    still = _still_seconds(record, attempt, view)
    if still is None:
        return None
    floor = view.run.spec.recovery.hang_timeout_seconds
    stage, step, step_seconds = _last_told(record, attempt, status)
    limit = patience_seconds(stage, step_seconds, floor) + LATER_SECONDS
    if still <= limit:
        return None
    phase = phase_words(stage, step, step_seconds)
    limits = f"where {text.duration(limit)} are allowed (recovery.hangTimeoutSeconds is {floor})"
    if record.silent_since is None:
        return f"{phase}: rank 0 has not moved for {text.duration(still)}, {limits}, and its launcher did not end it"
    return f"{phase}: rank 0 has told nothing since, for {text.duration(still)}, {limits}; it left no stacks"


def _still_seconds(record: AttemptStatus, attempt: Attempt, view: View) -> float | None:
    """How long nothing is known to have moved; None: nobody can say."""
    if record.running_since is None:
        return None
    if record.silent_since is not None:
        return view.now - text.seconds_of(record.silent_since)
    heard_at = _heard_at(record, attempt, view)
    if heard_at is None or attempt.progress is None:
        return None
    return view.now - heard_at + attempt.progress.still_seconds


def _heard_at(record: AttemptStatus, attempt: Attempt, view: View) -> float | None:
    """When the newest word of this attempt's rank 0 was heard, by the operator's clock; its workers ran by then."""
    if attempt.progress is None or attempt.progress.attempt != attempt.number:
        return None
    seen_at = view.now if attempt.progress_seen_at is None else attempt.progress_seen_at
    return seen_at if record.running_since is None else max(seen_at, text.seconds_of(record.running_since))


def _last_told(record: AttemptStatus, attempt: Attempt, status: Status) -> tuple[Stage, int, float | None]:
    """Stage, steps done, and the median step of this attempt, as far as anybody has heard."""
    told, kept = attempt.progress, status.progress
    if told is not None and told.attempt == attempt.number:
        return told.stage, told.step, told.step_seconds
    if kept is not None and kept.attempt == attempt.number and kept.stage in tuple(Stage):
        return Stage(kept.stage), kept.step, None if kept.step_seconds is None else float(kept.step_seconds)
    return Stage.LOADING, record.last_step or 0, None
