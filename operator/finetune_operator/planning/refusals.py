"""What a run is refused for before anything is made, apart from batch and memory (see `batch` and `remedies`)."""

import math
from collections.abc import Iterator

from finetune_contract import DatasetReport
from finetune_operator.planning.quantities import quantity_bytes
from finetune_operator.planning.scheduling import scheduling_problems
from finetune_operator.resource import DataSource, MethodType, Qwen3FineTune, ScheduleType
from finetune_operator.settings import Limits, Settings


class PlanError(ValueError):
    """The run cannot work as written; `reason` is CamelCase for conditions, the text says what would work."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_limits(run: Qwen3FineTune, settings: Settings) -> None:
    """Hold `run` against what the admin allows. Raises PlanError `LimitExceeded` that names every excess at once."""
    limits, parallelism = settings.limits, run.spec.parallelism
    problems = []
    if parallelism.nodes > limits.max_nodes:
        problems.append(f"spec.parallelism.nodes: {parallelism.nodes} is more than the {limits.max_nodes} allowed here")
    if parallelism.gpus_per_node > limits.max_gpus_per_node:
        problems.append(
            f"spec.parallelism.gpusPerNode: {parallelism.gpus_per_node} is more than the {limits.max_gpus_per_node} "
            "allowed here; use more nodes"
        )
    memory, most = run.spec.resources.memory_per_gpu, limits.max_memory_per_gpu
    if most is not None and quantity_bytes(memory) > quantity_bytes(most):
        problems.append(f"spec.resources.memoryPerGpu: {memory} is more than the {most} allowed here; use more GPUs")
    problems += scheduling_problems(run, settings)
    problems += _forbidden_sources(run, limits)
    if problems:
        raise PlanError("LimitExceeded", "\n".join(problems))


def _forbidden_sources(run: Qwen3FineTune, limits: Limits) -> Iterator[str]:
    """A line for every origin of model and data, and every store's endpoint, that the admin does not allow."""
    dataset = run.spec.dataset
    named: list[tuple[str, str, DataSource | None]] = [("spec.model", run.spec.model.source, None)]
    for number, each in enumerate(dataset.sources):
        named.append((f"spec.dataset.mix[{number}]" if dataset.mix else "spec.dataset", each.source, each))
    if dataset.validation.named:
        named.append(("spec.dataset.validation", dataset.validation.source, dataset.validation))
    for field, origin, source in named:
        if origin not in limits.sources:
            allowed = ", ".join(limits.sources) or "none"
            yield f"{field}.source: {origin} is not allowed here; allowed: {allowed}"
        endpoint = source.s3.endpoint if source is not None and source.s3 is not None else None
        if endpoint is not None and not {endpoint, "*"} & set(limits.s3_endpoints):
            allowed = ", ".join(limits.s3_endpoints) or "Amazon's alone"
            yield f"{field}.s3.endpoint: {endpoint} is not allowed here; allowed: {allowed}"


def check_push(run: Qwen3FineTune, settings: Settings) -> None:
    """Raises PlanError `LimitExceeded` when the admin does not let runs push to the hub that `run` names.

    Asked before a run starts, and again when its training is over: the field may change at any time, and a run that is
    under way is not ended for it.
    """
    push, allowed = run.spec.output.push, settings.limits.push_hubs
    if push is not None and push.hub not in allowed:
        names = ", ".join(allowed) or "none"
        raise PlanError("LimitExceeded", f"spec.output.push.hub: {push.hub} is not allowed here; allowed: {names}")


def check_output(run: Qwen3FineTune) -> None:
    """Raises PlanError `NothingToMerge` when a merged model is asked of a run without an adapter."""
    if run.spec.output.merge_adapter and run.spec.method.type is MethodType.FULL:
        raise PlanError(
            "NothingToMerge",
            "spec.output.mergeAdapter: true, and method Full trains no adapter: its result is a whole model already; "
            "remove mergeAdapter, or use method LoRA",
        )


def check_dataset(run: Qwen3FineTune, dataset: DatasetReport | None) -> None:
    """Raises PlanError `NoTrainingRows` when the prepared dataset leaves nothing to train on."""
    if dataset is None or dataset.sequences > 0:
        return
    spec = run.spec.dataset
    raise PlanError(
        "NoTrainingRows",
        f"spec.dataset: no training sequence is left: {dataset.rows} rows kept, {dataset.dropped_rows} dropped as "
        f"longer than maxTokens {spec.max_tokens} or without supervised tokens, {dataset.validation_rows} held out by "
        f"validation.fraction {spec.validation.fraction:g}; raise maxTokens (the longest row has {dataset.length_max} "
        "tokens), lower validation.fraction, or add rows",
    )


def check_evaluation(run: Qwen3FineTune, dataset: DatasetReport | None) -> None:
    """Raises PlanError `NoValidationRows` when evaluation is asked for and the prepared dataset holds nothing out."""
    if dataset is None or dataset.validation_rows > 0 or not run.spec.evaluation.is_asked_for:
        return
    fraction = run.spec.dataset.validation.fraction
    where = f"validation.fraction {fraction:g} takes none of the rows" if fraction else "validation's source has none"
    raise PlanError(
        "NoValidationRows",
        f"spec.evaluation: it looks at rows that are held out, and of {dataset.rows} rows {where}; raise the fraction, "
        "name a source with rows, or remove evaluation",
    )


def check_schedule(run: Qwen3FineTune, total_steps: int | None) -> None:
    """Raises PlanError `ScheduleTooLong` when warm-up and fall do not fit into the steps that the run has."""
    schedule = run.spec.training.schedule
    if total_steps is None or not schedule.warmup_steps:
        return
    falls = schedule.type is ScheduleType.WARMUP_STABLE_DECAY
    fall = math.ceil(round(schedule.decay_share * total_steps, 6)) if falls else 1
    if schedule.warmup_steps + fall <= total_steps:
        return
    rest = f"decayRatio {schedule.decay_share:g} takes {fall} of them" if falls else "the peak is to be reached"
    raise PlanError(
        "ScheduleTooLong",
        f"spec.training.schedule.warmupSteps: {schedule.warmup_steps}, and the run has {total_steps} steps, and {rest};"
        f" use at most {total_steps - fall}{', lower decayRatio' if falls else ''}, or train for more epochs",
    )
