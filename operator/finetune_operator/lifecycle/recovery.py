"""What is done about memory that did not suffice: the next attempt takes less of a GPU's, or gets more of the host's.

Everything is decided by the status: what earlier attempts have changed stands in `status.recovery`, and what the plan
makes of that is what the attempt ran with. So an operator that has been restarted decides the same.
"""

from collections.abc import Iterator

from finetune_operator.failures import Cause, Ending
from finetune_operator.lifecycle.decision import View
from finetune_operator.planning import Plan, PlanError, remedied, remedy_words
from finetune_operator.planning.quantities import GIB, quantity_bytes
from finetune_operator.resource import MemoryRemedy
from finetune_operator.status import PinnedStatus, RecoveryStatus, RemedyStatus, Status

HOST_MEMORY = "HostMemory"
"""The remedy for a pod that was killed at its memory limit; taken once."""

_UNTOUCHED = RecoveryStatus()


def recovered(ending: Ending, number: int, status: Status, view: View) -> RecoveryStatus | None:
    """What the attempts after attempt `number` run with; None: nothing can be done, or it is not about memory."""
    if ending.cause is Cause.OUT_OF_MEMORY:
        return _with_less_on_gpu(number, status, view)
    return _with_more_on_host(number, status, view) if ending.cause is Cause.HOST_OUT_OF_MEMORY else None


def advice(ending: Ending, status: Status, view: View) -> str | None:
    """What a person can do about memory after nothing is left to be done by itself; None: it is not about memory."""
    if ending.cause is Cause.OUT_OF_MEMORY:
        return "; ".join(_gpu_advice(status, view))
    return "; ".join(_host_advice(status, view)) if ending.cause is Cause.HOST_OUT_OF_MEMORY else None


def remedy_after(number: int, status: Status) -> RemedyStatus | None:
    """What attempt `number` has changed for those after it; None: nothing."""
    remedies = status.recovery.remedies if status.recovery is not None else ()
    return next((each for each in remedies if each.after_attempt == number), None)


def change_words(remedy: RemedyStatus, status: Status) -> str:
    """`attempt 2 runs with micro-batch 4 and 4 accumulation steps: the global batch stays 64 sequences`."""
    words = f"attempt {remedy.after_attempt + 1} runs with {remedy.after}"
    if remedy.remedy == HOST_MEMORY or status.plan is None:
        return words
    kept = f"{words}: the global batch stays {status.plan.global_batch} sequences"
    return f"{kept}, and the result is not that of LoRA" if remedy.remedy == MemoryRemedy.QLORA else kept


def _with_less_on_gpu(number: int, status: Status, view: View) -> RecoveryStatus | None:
    known, plan = status.recovery or _UNTOUCHED, view.plan(status.recovery)
    if isinstance(plan, PlanError):
        return None
    for remedy in view.run.spec.recovery.on_out_of_memory:
        if (change := _change(remedy, plan, status, view)) is None:
            continue
        pinned, made = change
        before, after = (remedy_words(remedy, each) for each in (plan, made))
        taken = RemedyStatus(after_attempt=number, remedy=remedy, before=before, after=after)
        return known.model_copy(update={"remedies": (*known.remedies, taken), "pinned": pinned})
    return None


def _change(remedy: MemoryRemedy, plan: Plan, status: Status, view: View) -> tuple[PinnedStatus, Plan] | None:
    """What `remedy` makes of `plan`; None: nothing, or it would throw away what has been trained."""
    if remedy is MemoryRemedy.QLORA and status.checkpoint is not None:
        return None
    known = status.recovery or _UNTOUCHED
    return remedied(remedy, view.run, plan, lambda pinned: view.plan(known.model_copy(update={"pinned": pinned})))


def _with_more_on_host(number: int, status: Status, view: View) -> RecoveryStatus | None:
    """Half as much again, in whole GiB, up to the admin's limit; without a limit nobody knows what the nodes have."""
    known, wanted, limit = status.recovery or _UNTOUCHED, view.run.spec.resources.memory_per_gpu, _limit(view)
    if known.memory_per_gpu is not None or limit is None or quantity_bytes(limit) <= quantity_bytes(wanted):
        return None
    more = f"{-(-3 * quantity_bytes(wanted) // (2 * GIB))}Gi"
    if quantity_bytes(more) > quantity_bytes(limit):
        more = limit
    taken = RemedyStatus(
        after_attempt=number,
        remedy=HOST_MEMORY,
        before=f"{wanted} of host memory per GPU",
        after=f"{more} of host memory per GPU",
    )
    return known.model_copy(update={"remedies": (*known.remedies, taken), "memory_per_gpu": more})


def _limit(view: View) -> str | None:
    return view.settings.limits.max_memory_per_gpu


def _gpu_advice(status: Status, view: View) -> Iterator[str]:
    remedies = (status.recovery or _UNTOUCHED).remedies
    tried = [f"{each.after} instead of {each.before}" for each in remedies if each.remedy != HOST_MEMORY]
    if tried:
        yield f"tried in vain: {', then '.join(tried)}"
    listed, plan = view.run.spec.recovery.on_out_of_memory, view.plan(status.recovery)
    left = [each for each in MemoryRemedy if each not in listed]
    if isinstance(plan, Plan) and (left := [each for each in left if _change(each, plan, status, view) is not None]):
        yield f"spec.recovery.onOutOfMemory leaves out {', '.join(left)}, which would take less"
    if MemoryRemedy.QLORA in listed and status.checkpoint is not None:
        yield (
            f"QLoRA was not taken, since the checkpoint of step {status.checkpoint.step} belongs to another base and "
            "would be lost: it takes a run under another name with method QLoRA"
        )
    yield "lower dataset.maxTokens, or take more GPUs or larger ones; training.globalBatch keeps its meaning throughout"


def _host_advice(status: Status, view: View) -> Iterator[str]:
    wanted, limit = view.run.spec.resources.memory_per_gpu, _limit(view)
    raised = status.recovery.memory_per_gpu if status.recovery is not None else None
    if raised is not None:
        yield f"spec.resources.memoryPerGpu: {wanted} was raised to {raised} before, in vain"
    elif limit is None:
        yield f"spec.resources.memoryPerGpu: {wanted} is not raised without the operator's limits.maxMemoryPerGpu"
    else:
        yield f"spec.resources.memoryPerGpu: {wanted} is all that the operator's limits.maxMemoryPerGpu allows"
    yield "raise it, or offload less to the CPU"
