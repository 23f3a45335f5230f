"""Whether checkpoints are written beside the training: each rank then holds its share of a snapshot in host memory."""

from finetune_contract import FullMethod, Method, ModelFacts
from finetune_operator.planning.memory_constants import HOST_PROCESS_BYTES
from finetune_operator.planning.quantities import gib, quantity_bytes
from finetune_operator.planning.refusals import PlanError
from finetune_operator.planning.shapes import trained_parameters
from finetune_operator.resource import Qwen3FineTune

SAVED_BYTES = 12
"""Of a trained parameter: its fp32 weight and AdamW's two moments."""


def checkpoint_bytes(model: ModelFacts, method: Method) -> int:
    """Size of one checkpoint."""
    return SAVED_BYTES * trained_parameters(model, method)


def snapshot_bytes(model: ModelFacts, method: Method, world_size: int) -> int:
    """The largest share of a checkpoint that one rank holds: whole tensors are dealt out, to whoever has least.

    So no share exceeds the mean by more than the largest tensor, the embedding where it is trained.
    """
    largest = 4 * model.vocab_size * model.hidden_size if isinstance(method, FullMethod) else 0
    return -(-checkpoint_bytes(model, method) // world_size) + largest


def is_asynchronous(
    run: Qwen3FineTune, method: Method, model: ModelFacts | None, *, world_size: int, host_bytes: int
) -> bool:
    """The user's wish; without one, whether the snapshot fits beside what is in host memory anyway (`host_bytes`).

    A model of unknown shape counts as small if adapters are trained, and as large if all of it is.
    Raises: PlanError `SnapshotTooLarge` when it is wished for and does not fit.
    """
    wish = run.spec.checkpoint.asynchronous
    if model is None:
        return not isinstance(method, FullMethod) if wish is None else wish
    snapshot, have = snapshot_bytes(model, method, world_size), quantity_bytes(run.spec.resources.memory_per_gpu)
    need = max(host_bytes, HOST_PROCESS_BYTES) + snapshot
    if wish and need > have:
        raise PlanError(
            "SnapshotTooLarge",
            f"spec.checkpoint.asynchronous: true takes {gib(snapshot)} of host memory per GPU for a snapshot, "
            f"{gib(need)} with the rest, and spec.resources.memoryPerGpu is {gib(have)}; raise it, or leave "
            "asynchronous out, and training waits while a checkpoint is written",
        )
    return need <= have if wish is None else wish
