"""Host memory of the export: at the end of a run rank 0 makes weights whole in fp32, one after the other.

That is checked before a GPU is asked for, since what does not fit would be killed when everything is trained.
"""

from finetune_contract import FullMethod, Method, ModelFacts
from finetune_operator.planning.quantities import GIB, gib, quantity_bytes
from finetune_operator.planning.refusals import PlanError
from finetune_operator.planning.shapes import weights
from finetune_operator.resource import Qwen3FineTune

_FP32_BYTES = 4
MODEL_COPIES, ADAPTER_COPIES = 4, 2
"""The largest weight in fp32 so many times: as trained, merged, written and compared. Measured: 3.6 for a merged model,
1.1 for an adapter, whose base is read alone (two layers of Qwen3-0.6B's widths with a head of its own, fp32)."""
LEAST_PROCESS_BYTES = GIB
"""What a rank surely holds: 0.5 GiB were measured on a CPU, and CUDA adds to that. Less than HOST_PROCESS_BYTES, which
is meant to suffice: here a run is refused, so nothing may be counted that need not be."""


def export_bytes(model: ModelFacts, method: Method, *, merges: bool) -> int:
    """Peak of the export in rank 0's process, beside what the process holds anyway."""
    largest = _FP32_BYTES * max(weight.parameters for weight in weights(model))
    is_model = merges or isinstance(method, FullMethod)
    return (MODEL_COPIES if is_model else ADAPTER_COPIES) * largest


def check_export(run: Qwen3FineTune, method: Method, model: ModelFacts, *, host_bytes: int) -> None:
    """Raise PlanError `ExportTooLarge` when the first node's pod cannot hold its ranks and the export.

    `host_bytes` is what each rank keeps offloaded, its process included; 0: nothing.
    """
    gpus, wanted = run.spec.parallelism.gpus_per_node, run.spec.resources.memory_per_gpu
    extra = export_bytes(model, method, merges=run.spec.output.merge_adapter)
    need = gpus * max(host_bytes, LEAST_PROCESS_BYTES) + extra
    have = gpus * quantity_bytes(wanted)
    if need > have:
        raise PlanError(
            "ExportTooLarge",
            f"spec.resources.memoryPerGpu: {wanted} x {gpus} GPUs is {gib(have)} of host memory per node, and the "
            f"export at the end of the run takes {gib(extra)}, {gib(need)} with the ranks' own; set it to "
            f"{-(-need // (gpus * GIB))}Gi",
        )
