"""What is said at the end of a run, and the exit code that says the same to scripts."""

from collections.abc import Iterator
from pathlib import Path

from finetune_contract import ExitCode
from finetune_operator.backends.local import RunFolder
from finetune_operator.failures import Cause, Verdict
from finetune_operator.lifecycle import text
from finetune_operator.status import ArtifactStatus, Phase, PlanStatus, Status

LAST_LINES = 15

_EXIT_CODES = {
    Cause.USER_ERROR: ExitCode.USER_ERROR,
    Cause.OUT_OF_MEMORY: ExitCode.OUT_OF_MEMORY,
    Cause.HOST_OUT_OF_MEMORY: ExitCode.OUT_OF_MEMORY,
    Cause.NOT_A_NUMBER: ExitCode.NOT_A_NUMBER,
    Cause.INFRASTRUCTURE: ExitCode.INFRASTRUCTURE,
    Cause.HANG: ExitCode.HANG,
}


def exit_code(status: Status) -> int:
    """The trainer's own exit codes: 0 done, 64 cannot work as written, 75 saved and stopped, 65-68 and 1 failed."""
    if status.phase is Phase.SUCCEEDED:
        return ExitCode.DONE
    if status.phase is Phase.SUSPENDED:
        return ExitCode.PREEMPTED
    if status.artifacts:
        return _exit_code_of_push(status)
    if status.attempts and status.attempts[-1].cause:
        return _EXIT_CODES.get(Cause(status.attempts[-1].cause), ExitCode.UNEXPECTED)
    if status.preparation_failures:
        return _EXIT_CODES.get(Cause(status.preparation_failures[-1].cause), ExitCode.UNEXPECTED)
    return ExitCode.USER_ERROR  # refused before anything was started


def _exit_code_of_push(status: Status) -> int:
    """Of a run that has trained, and whose results could not be pushed."""
    push = status.push
    if push is None or push.cause is None or push.decision != Verdict.GIVE_UP:
        return ExitCode.USER_ERROR  # refused before it was tried
    return _EXIT_CODES.get(Cause(push.cause), ExitCode.UNEXPECTED)


def opening_words(status: Status) -> str | None:
    """What a run that was begun earlier goes on from; None: it begins now."""
    if not status.attempts:
        return None
    if status.artifacts:
        return "the training is complete; only its push is left"
    last = status.attempts[-1]
    ended = f"attempt {last.number} ended as {last.cause}" if last.cause else f"attempt {last.number} was under way"
    start = f"from the checkpoint of step {status.checkpoint.step}" if status.checkpoint else "from the base model"
    return f"goes on {start}; {ended}"


def plan_words(plan: PlanStatus) -> str:
    """The plan in one line, now that the data is known."""
    have = plan.gpu_memory_bytes
    memory = f", about {text.memory(plan.memory_bytes)} of {text.memory(have)} per GPU" if have is not None else ""
    steps = f", {plan.total_steps:,} steps" if plan.total_steps is not None else ""
    return f"planned: {plan.strategy}, {plan.batch}{steps}{memory}"


def closing_words(status: Status, folder: RunFolder) -> str:
    """What the person at the terminal needs to know now that the run has come to rest."""
    if status.phase is Phase.SUSPENDED and status.artifacts:
        return "\n".join(("stopped before its results were pushed; the same command pushes them", *_results(status)))
    if status.phase is Phase.SUSPENDED:
        saved = f"at step {status.checkpoint.step}" if status.checkpoint else "before its first checkpoint"
        return f"stopped {saved}; the same command goes on from there"
    if status.failure is not None:
        return "\n".join((*_failure(status, folder), *_results(status)))
    return "\n".join(_success(status))


def row(name: str, status: Status) -> tuple[str, ...]:
    """The run as a line of the table: name, phase, progress, step, loss, ETA, ranks, restarts."""
    progress = status.progress
    moved = (progress.percent, str(progress.step), progress.loss, progress.eta) if progress else (None,) * 4
    ranks = str(status.plan.gpus) if status.plan else None
    return (name, str(status.phase), *(each or "" for each in (*moved, ranks)), str(status.restarts))


def _success(status: Status) -> Iterator[str]:
    if not status.artifacts:
        yield "data and plan are ready; set spec.mode to Run to train"
        return
    steps = status.progress.step if status.progress else None
    validation = f", validation loss {status.validation_loss}" if status.validation_loss else ""
    yield f"done: {steps} steps, final loss {status.final_loss}{validation}"
    yield from _course(status)
    yield from _results(status)
    yield from _how_to_use(status.artifacts[-1])


def _course(status: Status) -> Iterator[str]:
    """What was not as usual about the training."""
    progress = status.progress
    if progress is None:
        return
    if status.stopped_early:
        best = f"{progress.best_validation_loss} at step {progress.best_step}"
        yield f"ended early: the validation loss was lowest, {best}"
    if status.artifacts_step not in (None, progress.step):
        yield f"made from the weights of step {status.artifacts_step}"
    if progress.skipped_steps:
        yield f"steps that changed nothing, since loss or gradient norm was not finite: {progress.skipped_steps}"
    for note in progress.interventions:
        yield f"intervened: {note}"


def _results(status: Status) -> Iterator[str]:
    """What there is, on this machine and on hubs."""
    for artifact in status.artifacts:
        yield f"{artifact.kind}: {artifact.path} ({artifact.digest})"
        if artifact.pushed is not None:
            commit = f" (commit {artifact.pushed.commit})" if artifact.pushed.commit else ""
            yield f"    pushed to {artifact.pushed.url}{commit}"


def _how_to_use(artifact: ArtifactStatus) -> Iterator[str]:
    package, name = ("peft", "AutoPeftModelForCausalLM")
    if artifact.kind != "Adapter":
        package, name = ("transformers", "AutoModelForCausalLM")
    yield "load it:"
    yield f"    from {package} import {name}"
    yield f'    model = {name}.from_pretrained("{artifact.path}")'
    if artifact.serve is not None:
        yield "serve it:"
        yield f"    {artifact.serve}"


def _failure(status: Status, folder: RunFolder) -> Iterator[str]:
    assert status.failure is not None
    yield f"failed: {status.failure.reason}: {status.failure.message}"
    log = _log_file(status, folder)
    if log is None or not log.exists():
        return
    yield f"log: {log}; its last lines:"
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]:
        yield f"    {line}"


def _log_file(status: Status, folder: RunFolder) -> Path | None:
    """The log nearest to the failure; None: nothing was started."""
    if status.artifacts:
        return folder.log_of_push(status.push.number) if status.push is not None else None
    if not status.attempts:
        return folder.log_of_preparation if status.preparation_failures else None
    last = status.attempts[-1]
    ranks_per_node = status.plan.gpus // status.plan.nodes if status.plan else 1
    return folder.attempt(last.number).log_of(0 if last.rank is None else last.rank // ranks_per_node)
