"""The status of a resource that cannot be understood."""

from finetune_operator.lifecycle.conditions import FALSE, Truth, written
from finetune_operator.status import ConditionType, Phase, Status

INVALID_SPEC = "InvalidSpec"


def invalid_status(previous: Status, problems: tuple[str, ...], *, generation: int, now: float) -> Status:
    """`previous` with every problem of the spec in its conditions; records stay, so that a mended spec goes on.

    What runs is left alone, and a run that is final stays as it is.
    """
    if previous.completion_time is not None and previous.start_time is not None:
        return previous
    truth = Truth(FALSE, INVALID_SPEC, "; ".join(problems))
    truths = {
        condition.type: Truth(condition.status, condition.reason, condition.message)
        for condition in previous.conditions
    } | {ConditionType.PLANNED: truth, ConditionType.SUCCEEDED: truth}
    conditions = written(previous.conditions, truths, generation, now)
    update = {"conditions": conditions, "phase": Phase.FAILED, "observed_generation": generation}
    return previous.model_copy(update=update)
