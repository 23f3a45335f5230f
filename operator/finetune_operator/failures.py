"""Pure: how an attempt ended -> its root cause -> what to do about it.

A gang dies together, so one failure is seen many times: the rank that ran out of memory says so, and every other rank
says that its connection broke. The cause nearest to the root wins: what a rank says of itself beats what Kubernetes
says of its pod, that beats a process that died without a word, and that beats the echo of somebody else's death.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from finetune_contract import PEER_LOST, ExitCode, Failure, Outcome
from finetune_operator.observation import Attempt, Preparation, Push, Worker, WorkerState


class Cause(StrEnum):
    """Why an attempt, a preparation or a push ended; what workers can show is listed, the nearest to the root first."""

    DONE = "Done"
    USER_ERROR = "UserError"
    """The run cannot work as written."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The GPU's memory did not suffice."""
    NOT_A_NUMBER = "NotANumber"
    """The loss or its gradient was not finite."""
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    """The pod's own memory limit was hit."""
    DISRUPTION = "Disruption"
    """The cluster took a worker away: preemption, drain, lost node."""
    HANG = "Hang"
    """Nothing moved for longer than what was done can take; ended by the trainer's launcher, or by us."""
    UNEXPECTED = "Unexpected"
    """An exception nobody foresaw, or an end without a word."""
    INFRASTRUCTURE = "Infrastructure"
    """Communication or hardware failed, or a process was killed."""
    PREEMPTED = "Preempted"
    """A SIGTERM that nobody explained."""
    SUSPENDED = "Suspended"
    """spec.suspend; ended by us."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """No step within scheduling.preRunningDeadlineSeconds, or all of activeDeadlineSeconds used; ended by us."""


class Verdict(StrEnum):
    """What happens after an end."""

    FINISH = "Finish"
    RETRY = "Retry"
    """A new attempt, counted against recovery.maxRestarts."""
    RETRY_UNCOUNTED = "RetryUncounted"
    """A new attempt that costs nothing: the run was not at fault."""
    REMEDY = "Remedy"
    """A new attempt that takes less memory or is given more; not counted: there are only so many remedies."""
    SUSPEND = "Suspend"
    """A new attempt when spec.suspend is false again; not counted."""
    GIVE_UP = "GiveUp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended, and where that was seen."""

    cause: Cause
    reason: str
    """CamelCase, for conditions: the trainer's own word where it has one."""
    message: str
    exit_code: int | None = None
    rank: int | None = None
    node: str | None = None
    stacks_dir: str | None = None
    """Where the stacks of all ranks lie on the output volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How often may be retried."""

    failures: int
    """Counted failures so far."""
    max_restarts: int

    @property
    def is_used_up(self) -> bool:
        """Whether the next counted failure is the last."""
        return self.failures >= self.max_restarts


_ROOT_FIRST = tuple(Cause)

_CAUSE_OF_EXIT = {
    ExitCode.DONE: Cause.DONE,
    ExitCode.UNEXPECTED: Cause.UNEXPECTED,
    ExitCode.USER_ERROR: Cause.USER_ERROR,
    ExitCode.OUT_OF_MEMORY: Cause.OUT_OF_MEMORY,
    ExitCode.NOT_A_NUMBER: Cause.NOT_A_NUMBER,
    ExitCode.INFRASTRUCTURE: Cause.INFRASTRUCTURE,
    ExitCode.HANG: Cause.HANG,
    ExitCode.PREEMPTED: Cause.PREEMPTED,
}

_CERTAIN = frozenset({Cause.DONE, Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.NOT_A_NUMBER})
"""What a trainer knows of itself for certain: no drained node explains it away."""

_SIGKILL_EXIT, _SIGTERM_EXIT = 128 + 9, 128 + 15

_ADVICE = {
    Cause.NOT_A_NUMBER: "lower training.learningRate, lengthen training.schedule.warmupRatio, keep "
    "training.maxGradNorm at 1.0, and prefer precision Bf16 to Fp16; then look at the rows of that step",
}
"""What a run that ran out of memory is told depends on what has been tried; see `lifecycle.recovery`."""

_POINTS_NOWHERE = frozenset({PEER_LOST, "RendezvousFailed"})
"""Reasons of failures that tell of other workers: the node of the one that says so is not at fault."""


def classify(attempt: Attempt) -> Ending:
    """The root cause of the end of `attempt`, by what its workers show now."""
    shown = [ending for worker in attempt.workers if (ending := _shown_by(worker)) is not None]
    if any(_has_stopped_in_agreement(worker) for worker in attempt.workers):
        shown = [ending for ending in shown if ending.reason != PEER_LOST]
    if attempt.is_suspended_by_queue:
        shown.append(_ending(Cause.DISRUPTION, _taken_back(attempt)))
    if shown:
        return min(shown, key=_distance_from_root)
    if "DisruptionTarget" in (attempt.job_message or ""):  # the Job controller's own words for a pod that is gone
        return _ending(Cause.DISRUPTION, f"a worker was taken away: {attempt.job_message}")
    if any(worker.state is WorkerState.SUCCEEDED for worker in attempt.workers):
        said = next((f": {worker.message}" for worker in attempt.workers if worker.message), "")
        return _ending(Cause.UNEXPECTED, f"the workers ended with exit code 0 and left no result{said}")
    said = f"the last word was: {attempt.job_message}" if attempt.job_message else "nobody said why"
    return _ending(Cause.INFRASTRUCTURE, f"the workers are gone, and {said}")


def classify_preparation(preparation: Preparation) -> Ending:
    """The cause of the end of a preparation that did not succeed."""
    return _classify_single(preparation, "the preparation")


def classify_push(push: Push) -> Ending:
    """The cause of the end of a push."""
    if push.outcome is not None and push.outcome.pushed:
        places = (f"{each.url}{f' at commit {each.commit}' if each.commit else ''}" for each in push.outcome.pushed)
        return _ending(Cause.DONE, f"stands on {', '.join(places)}", exit_code=push.exit_code)
    return _classify_single(push, f"push {push.number}")


def _classify_single(ended: Preparation | Push, who: str) -> Ending:
    """The cause of the end of something that one pod on CPUs did not succeed in."""
    outcome = ended.outcome
    if outcome is not None and outcome.failure is not None:
        return _told(_CAUSE_OF_EXIT[outcome.exit_code], outcome.failure, node=None)
    if _has_filled_its_own(ended):
        return _ending(Cause.UNEXPECTED, f"{who} was evicted: {ended.message}")
    if ended.disruption is not None:
        return _ending(Cause.DISRUPTION, _disrupted(who, ended.disruption, ended.message))
    if ended.reason == "OOMKilled":
        message = f"the pod of {who} hit its memory limit; the admin sets it in the operator's pods.prepareMemory"
        return _ending(Cause.HOST_OUT_OF_MEMORY, message)
    if ended.exit_code is None:
        said = ended.message or ended.reason or "nobody said why"
        return _ending(Cause.INFRASTRUCTURE, f"{who} could not run: {said}")
    cause = _cause_of_code(ended.exit_code)
    said = f": {ended.message}" if ended.message else ""
    message = f"{who} ended with exit code {ended.exit_code} and left no report{said}"
    return _ending(cause, message, exit_code=ended.exit_code)


def suspect_node(ending: Ending) -> str | None:
    """The node that `ending` points at; None: it points at none."""
    is_of_a_node = ending.cause in (Cause.INFRASTRUCTURE, Cause.HANG) and ending.reason not in _POINTS_NOWHERE
    return ending.node if is_of_a_node else None


def decide(ending: Ending, budget: Budget, *, has_remedy: bool = False) -> Verdict:
    """What to do after `ending`; `has_remedy`: something can be done about memory that did not suffice."""
    match ending.cause:
        case Cause.DONE:
            return Verdict.FINISH
        case Cause.SUSPENDED:
            return Verdict.SUSPEND
        case Cause.DISRUPTION | Cause.PREEMPTED:
            return Verdict.RETRY_UNCOUNTED
        case Cause.HANG | Cause.INFRASTRUCTURE | Cause.UNEXPECTED:
            return Verdict.GIVE_UP if budget.is_used_up else Verdict.RETRY
        case Cause.OUT_OF_MEMORY | Cause.HOST_OUT_OF_MEMORY:
            return Verdict.REMEDY if has_remedy else Verdict.GIVE_UP
        case _:
            return Verdict.GIVE_UP


def done_outcome(attempt: Attempt) -> Outcome | None:
    """The word of a worker that the run is complete, with its result."""
    outcomes = (worker.outcome for worker in attempt.workers)
    return next((outcome for outcome in outcomes if outcome is not None and outcome.result is not None), None)


def _has_filled_its_own(ended: Worker | Preparation | Push) -> bool:
    """Whether a pod was evicted for what it wrote itself; of its node's distress the kubelet speaks in other words."""
    return ended.reason == "Evicted" and re.search(r"exceed(s the|ed its) ", ended.message or "") is not None


def _has_stopped_in_agreement(worker: Worker) -> bool:
    """Whether the worker's ranks agreed with all others to stop: then its leaving is why a connection to it broke.

    A launcher whose ranks let the grace pass, perhaps since a peer was lost before, knows of no step.
    """
    outcome = worker.outcome
    return outcome is not None and outcome.exit_code is ExitCode.PREEMPTED and outcome.step is not None


def _distance_from_root(ending: Ending) -> tuple[int, bool]:
    return _ROOT_FIRST.index(ending.cause), ending.reason == PEER_LOST


def _shown_by(worker: Worker) -> Ending | None:
    """What this worker says of the attempt's end; None: nothing."""
    return next(_testimonies(worker), None)


def _testimonies(worker: Worker) -> Iterator[Ending]:
    """Every account of the worker's end, the most reliable first."""
    outcome, where = worker.outcome, f"worker {worker.index}"
    told = None if outcome is None else _told_by_trainer(outcome, worker.node)
    if told is not None and told.cause in _CERTAIN:
        yield told
    if _has_filled_its_own(worker):
        message = f"{where} was evicted: {worker.message}"
        yield _ending(Cause.UNEXPECTED, message, exit_code=worker.exit_code, node=worker.node)
    if worker.disruption is not None:
        message = _disrupted(where, worker.disruption, worker.message)
        yield _ending(Cause.DISRUPTION, message, exit_code=worker.exit_code, node=worker.node)
    if worker.reason == "OOMKilled":
        message = f"{where} hit its memory limit"
        yield _ending(Cause.HOST_OUT_OF_MEMORY, message, exit_code=worker.exit_code, node=worker.node)
    if told is not None:
        yield told
    if worker.state is WorkerState.FAILED:
        yield _wordless(worker, where)


def _told_by_trainer(outcome: Outcome, node: str | None) -> Ending | None:
    if outcome.failure is not None:
        return _told(_CAUSE_OF_EXIT[outcome.exit_code], outcome.failure, node)
    if outcome.result is not None:
        return _ending(
            Cause.DONE, f"finished after step {outcome.result.steps}", exit_code=outcome.exit_code, node=node
        )
    if outcome.exit_code is ExitCode.PREEMPTED:
        message = f"asked to stop, {_saved_words(outcome)}"
        return _ending(Cause.PREEMPTED, message, exit_code=outcome.exit_code, node=node)
    return None


def _saved_words(outcome: Outcome) -> str:
    """What a preempted trainer has kept."""
    saved = outcome.checkpoint.step if outcome.checkpoint else 0
    if outcome.step is None:
        return "and nothing is known to have been lost"
    if outcome.step <= saved:
        return f"and saved after step {outcome.step}"
    kept = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint"
    return f"and the grace was over before step {outcome.step} was saved; {kept}"


def _told(cause: Cause, failure: Failure, node: str | None) -> Ending:
    parts = [failure.message, *(detail for detail in failure.details if detail not in failure.message)]
    if failure.peak_memory_bytes is not None and failure.requested_bytes is not None:
        held, asked = failure.peak_memory_bytes / 2**30, failure.requested_bytes / 2**30
        parts.append(f"{held:.1f} GiB were held at the peak when {asked:.1f} GiB more were asked for")
    if cause in _ADVICE:
        parts.append(_ADVICE[cause])
    who = "" if failure.rank is None else f"rank {failure.rank}: "
    return Ending(
        cause=cause,
        reason=failure.reason if re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", failure.reason) else str(cause),
        message=who + "; ".join(parts),
        exit_code=failure.exit_code,
        rank=failure.rank,
        node=node,
        stacks_dir=failure.stacks_dir,
    )


def _wordless(worker: Worker, where: str) -> Ending:
    """The end of a worker whose trainer could not write an outcome."""
    said = "".join(f": {text}" for text in (worker.reason, worker.message) if text)
    if worker.exit_code is None:
        return _ending(Cause.INFRASTRUCTURE, f"{where} failed before it ran{said}", node=worker.node)
    cause = _cause_of_code(worker.exit_code)
    message = f"{where} ended with exit code {worker.exit_code} and left no outcome{said}"
    return _ending(cause, message, exit_code=worker.exit_code, node=worker.node)


def _cause_of_code(exit_code: int) -> Cause:
    """What an exit code says when it is all there is; 0 without a result is as unexpected as 1."""
    if exit_code == _SIGKILL_EXIT:
        return Cause.INFRASTRUCTURE
    if exit_code == _SIGTERM_EXIT:
        return Cause.PREEMPTED
    known = {int(code): cause for code, cause in _CAUSE_OF_EXIT.items() if code is not ExitCode.DONE}
    return known.get(exit_code, Cause.UNEXPECTED)


def _taken_back(attempt: Attempt) -> str:
    place = attempt.place
    if place is None:
        return "its Job was suspended, and not by this operator"
    is_said = place.message.startswith(place.reason or "")
    why = ": ".join(each for each in (None if is_said else place.reason, place.message) if each)
    return f"queue {place.queue} has taken the run's place back ({why})"


def _disrupted(who: str, disruption: str, message: str | None) -> str:
    return f"{who} was taken away ({disruption})" + (f": {message}" if message else "")


def _ending(cause: Cause, message: str, *, exit_code: int | None = None, node: str | None = None) -> Ending:
    return Ending(cause=cause, reason=str(cause), message=message, exit_code=exit_code, node=node)
