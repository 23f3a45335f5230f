"""What is decided by the loss on held-out rows: which checkpoint is the best, and when to stop. Pure."""

from finetune_contract import ContractModel, EvaluationConfig


class EvaluationState(ContractModel):
    """What the looks at the held-out rows have shown so far."""

    loss: float | None = None
    """Of the last look; None: never looked, or it was not finite."""
    step: int = 0
    """Of the last look."""
    best_loss: float | None = None
    best_step: int | None = None
    looks_without_gain: int = 0
    """In a row, up to the last one."""


def looked(state: EvaluationState, config: EvaluationConfig, *, step: int, loss: float) -> EvaluationState:
    """`state` after a look at `step`. A loss that is not finite is no gain."""
    is_gain = state.best_loss is None and loss < float("inf")
    if state.best_loss is not None:
        is_gain = loss < state.best_loss - config.min_delta
    seen = {"loss": loss if abs(loss) < float("inf") else None, "step": step}
    if is_gain:
        return state.model_copy(update=seen | {"best_loss": loss, "best_step": step, "looks_without_gain": 0})
    return state.model_copy(update=seen | {"looks_without_gain": state.looks_without_gain + 1})


def is_exhausted(state: EvaluationState, config: EvaluationConfig) -> bool:
    """Whether patience has come to its end."""
    return config.patience is not None and state.looks_without_gain >= config.patience


def is_best(state: EvaluationState) -> bool:
    """Whether the last look found the best loss so far."""
    return state.best_step is not None and state.best_step == state.step
