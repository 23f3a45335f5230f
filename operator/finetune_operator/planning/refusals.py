"""What a run is refused for before anything is made, apart from batch and memory (see `batch` and `remedies`)."""

from collections.abc import Iterator

from finetune_contract import DatasetReport
from finetune_operator.resource import DataSource, MethodType, Qwen3FineTune
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
    wanted = run.spec.scheduling.priority_class
    if wanted is not None and wanted not in limits.priority_classes:
        allowed = ", ".join(limits.priority_classes) or "none"
        problems.append(f"spec.scheduling.priorityClass: {wanted!r} is not allowed here; allowed: {allowed}")
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
