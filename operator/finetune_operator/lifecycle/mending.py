"""Records that contradict themselves, since a person or another release has written in the status.

Nothing here guesses: what cannot be true is taken for unknown, and then observation, or another attempt, tells.
"""

from finetune_operator.failures import Cause, Verdict
from finetune_operator.status import AttemptStatus, Status

_CAUSES, _ENDS = frozenset(map(str, Cause)), frozenset({Verdict.FINISH, Verdict.GIVE_UP})


def mended(status: Status) -> Status:
    """`status` of a run that is not final, without what cannot be true; equal to it if nobody has tampered with it."""
    numbered = {record.number: record for record in status.attempts if record.number >= 1}
    records = tuple(numbered[number] for number in sorted(numbered))
    attempts = (*(_went_on(record) for record in records[:-1]), *records[-1:])
    update: dict[str, object] = {"attempts": tuple(_with_known_cause(record) for record in attempts)}
    if status.model is None or status.dataset is None:
        update["preparation"] = None  # what was prepared is not known; the preparation is looked at, or made again
    return status.model_copy(update=update)


def with_result_forgotten(status: Status) -> Status:
    """`status` of a run that is said to be finished, and of which nobody knows any more with what.

    The next attempt finds all of its steps done, and tells.
    """
    last = status.attempts[-1].model_copy(update={"decision": str(Verdict.RETRY_UNCOUNTED)})
    return status.model_copy(update={"attempts": (*status.attempts[:-1], last)})


def _went_on(record: AttemptStatus) -> AttemptStatus:
    """An attempt that was followed by another did not end the run."""
    if record.decision not in _ENDS:
        return record
    return record.model_copy(update={"decision": str(Verdict.RETRY_UNCOUNTED)})


def _with_known_cause(record: AttemptStatus) -> AttemptStatus:
    """Before the decision, the cause is our own order to end the attempt."""
    if record.decision is not None or record.cause is None or record.cause in _CAUSES:
        return record
    return record.model_copy(update={"cause": None, "message": None})
