"""Peak memory of one GPU, by component.

The sum is what must fit. Checked against measured peaks of torch's allocator (H100 80GB, Qwen3-8B, LoRA rank 8 on all
projections, one sequence of 8,192 tokens, no checkpointing): fused adapters take 54 GiB, plain PEFT modules with fused
norms, MLP and loss 71.6 GiB. This trainer has plain modules all over and saves 228 KiB per token and layer where those
save about 130 and 190, so it comes to 81 GiB here, 92 with the logits of every token. The same count for a plain
Transformers and PEFT loop (4 x 1,024 tokens, q, k, v, o with dropout, fp32 inputs of the adapters) gives 56 GiB, and
55.8 were measured.
"""

import math
from dataclasses import dataclass

from finetune_contract import (
    ActivationCheckpointing,
    AdapterMethod,
    DdpParallelism,
    DeepSpeedParallelism,
    FsdpParallelism,
    Method,
    ModelFacts,
    OffloadDevice,
    Parallelism,
    Precision,
    QloraMethod,
    Quantization,
)
from finetune_operator.planning import memory_constants as constants
from finetune_operator.planning.activations import (
    Computation,
    computation,
    largest_weight,
    saved_bytes_per_token,
    widest_inside,
)
from finetune_operator.planning.shapes import (
    layer_parameters,
    model_parameters,
    quantised_weights,
    root_parameters,
    trained_layer_parameters,
    trained_parameters,
    trained_root_parameters,
    whole_weights,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLine:
    """One component of the memory estimate, per GPU."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is trained on what, however the ranks share it."""

    model: ModelFacts
    method: Method
    precision: Precision
    tokens_per_sequence: int
    """Of the longest sequence."""
    supervised_share: float
    """Share of a micro-batch's tokens whose logits are computed, at worst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How the ranks share a workload."""

    parallelism: Parallelism
    world_size: int
    checkpointing: ActivationCheckpointing
    micro_sequences: int


def total(memory: tuple[MemoryLine, ...]) -> int:
    """The whole estimate, in bytes."""
    return sum(line.bytes for line in memory)


def gpu_memory(workload: Workload, sharing: Sharing) -> tuple[MemoryLine, ...]:
    """The components that are not zero, in bytes; state first, then what comes and goes within a step."""
    state = _state(workload, sharing)
    passing = _passing(workload, sharing)
    slack = constants.KERNEL_WORKSPACE_BYTES + int(constants.FRAGMENTATION * sum(passing.values()))
    lines = {**state, **passing, "workspace and fragmentation": slack, "CUDA context": constants.CONTEXT_BYTES}
    return tuple(MemoryLine(name=name, bytes=size) for name, size in lines.items() if size)


def host_memory(workload: Workload, sharing: Sharing) -> int:
    """Bytes of host memory per GPU that a run needs because it keeps state there; 0 when it keeps none."""
    offloaded = sum(_on_host(workload, sharing).values())
    return offloaded + constants.HOST_PROCESS_BYTES if offloaded else 0


def _state(workload: Workload, sharing: Sharing) -> dict[str, int]:
    on_host = _on_host(workload, sharing)
    return {name: size for name, size in _shards(workload, sharing).items() if name not in on_host}


def _on_host(workload: Workload, sharing: Sharing) -> dict[str, int]:
    shards, parallelism = _shards(workload, sharing), sharing.parallelism
    if isinstance(parallelism, FsdpParallelism) and parallelism.cpu_offload:
        return shards
    names: list[str] = []
    if isinstance(parallelism, DeepSpeedParallelism):
        if parallelism.offload_optimizer is OffloadDevice.CPU:
            # stage 1 accumulates whole gradients before it cuts them, and does so on the GPU
            names += ["optimizer state"] if parallelism.stage == 1 else ["gradients", "optimizer state"]
        if parallelism.offload_parameters is OffloadDevice.CPU:
            names += ["weights", "adapters"]
    return {name: shards[name] for name in names}


def _shards(workload: Workload, sharing: Sharing) -> dict[str, int]:
    """One rank's part of everything that lives from step to step, wherever it is kept.

    DDP and FSDP train the fp32 weights themselves. DeepSpeed trains weights in the compute format, and its optimizer
    owns fp32 masters of them (Rajbhandari et al. 2019, arXiv 1910.02054, section 3).
    """
    compute = constants.COMPUTE_BYTES[workload.precision]
    trained = trained_parameters(workload.model, workload.method)
    is_deepspeed = isinstance(sharing.parallelism, DeepSpeedParallelism)
    trained_bytes = trained * (compute if is_deepspeed else constants.MASTER_BYTES)
    is_lora = isinstance(workload.method, AdapterMethod)
    frozen_bytes = frozen_weight_bytes(workload.model, workload.method, compute)
    optimizer = constants.MOMENT_BYTES + (constants.MASTER_BYTES if is_deepspeed else 0)
    ranks = _ranks_that_share(sharing)
    return {
        "weights": -(-(frozen_bytes + (0 if is_lora else trained_bytes)) // ranks["weights"]),
        "adapters": -(-trained_bytes // ranks["weights"]) if is_lora else 0,
        "gradients": -(-trained * constants.GRADIENT_BYTES // ranks["gradients"]),
        "optimizer state": -(-trained * optimizer // ranks["optimizer state"]),
    }


def frozen_weight_bytes(model: ModelFacts, method: Method, compute_bytes: int) -> int:
    """The base's weights that are not trained, as they are stored: QLoRA's products in four bits."""
    quantised = sum(weight.parameters for weight in quantised_weights(model, method))
    trained = sum(weight.parameters for weight in whole_weights(model, method))
    others = model_parameters(model) - quantised - trained
    if not isinstance(method, QloraMethod):
        return others * compute_bytes
    return others * compute_bytes + math.ceil(quantised * nf4_weight_bytes(method.quantization))


def nf4_weight_bytes(quantization: Quantization) -> float:
    """Bytes of one weight in four bits with its part of the scales: 0.516 in blocks of 64 and with double quantisation,
    0.5625 without (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""
    scale = 1 + 4 / constants.SCALE_BLOCK if quantization.double_quantization else 4
    return constants.NF4_BYTES + scale / quantization.block_size


def _ranks_that_share(sharing: Sharing) -> dict[str, int]:
    parallelism, world_size = sharing.parallelism, sharing.world_size
    if isinstance(parallelism, FsdpParallelism):
        stage = 3
    else:
        stage = parallelism.stage if isinstance(parallelism, DeepSpeedParallelism) else 0
    shared_from = {"optimizer state": 1, "gradients": 2, "weights": 3}
    return {name: world_size if stage >= first else 1 for name, first in shared_from.items()}


def _passing(workload: Workload, sharing: Sharing) -> dict[str, int]:
    compute = constants.COMPUTE_BYTES[workload.precision]
    work = computation(workload.model, workload.method, compute, sharing.parallelism)
    tokens = sharing.micro_sequences * workload.tokens_per_sequence
    positions = math.ceil(tokens * workload.supervised_share)
    logit_bytes = compute + constants.LOGIT_COPIES_BYTES
    return {
        "weight copies": _weight_copies(work),
        "weights made whole": _weights_made_whole(work),
        "activations": tokens * saved_bytes_per_token(work, sharing.checkpointing),
        "activation gradients": tokens * _backward_bytes_per_token(work),
        "logits": positions * workload.model.vocab_size * logit_bytes,
        "gather buffers": _gather_buffers(work, sharing.parallelism),
        "communication buckets": _communication(work, sharing),
    }


def _weight_copies(work: Computation) -> int:
    """Autocast keeps a compute-format copy of every trained matrix until the forward pass ends."""
    if not work.has_autocast:
        return 0
    trained = trained_parameters(work.model, work.method)
    is_looked_up = not work.model.tied_embeddings  # and never cast
    tables = [each for each in whole_weights(work.model, work.method) if each.name == "model.embed_tokens"]
    return work.compute_bytes * (trained - (sum(each.parameters for each in tables) if is_looked_up else 0))


def _weights_made_whole(work: Computation) -> int:
    """A product in four bits makes its weight whole first, one at a time; a second one is being thrown away."""
    return 2 * work.compute_bytes * largest_weight(work.model) if isinstance(work.method, QloraMethod) else 0


def _backward_bytes_per_token(work: Computation) -> int:
    """Gradients that live at once within a layer: those of the MLP's inside are the widest."""
    return work.compute_bytes * widest_inside(work) + work.stream_bytes * 2 * work.model.hidden_size


def _gather_buffers(work: Computation, parallelism: Parallelism) -> int:
    """Weights that are whole for a while although every rank keeps a shard; those in four bits stay so."""
    every, root = model_parameters(work.model), root_parameters(work.model)
    layers = constants.GATHERED_LAYERS * layer_parameters(work.model)
    share = _stored_share(work)
    if isinstance(parallelism, FsdpParallelism):
        gathered = min(every, root + layers) if parallelism.reshard_after_forward else every
        in_layers = gathered - min(gathered, root)
        return int(work.compute_bytes * (gathered - in_layers + share * in_layers))
    if isinstance(parallelism, DeepSpeedParallelism) and parallelism.stage == 3:
        return int(work.compute_bytes * min(every, max(constants.ZERO3_LIVE_PARAMETERS, root + layers)))
    return 0


def _stored_share(work: Computation) -> float:
    """Size of the layers' weights as they are stored, in units of what they take in the compute format."""
    if not isinstance(work.method, QloraMethod):
        return 1.0
    return nf4_weight_bytes(work.method.quantization) / work.compute_bytes


def _communication(work: Computation, sharing: Sharing) -> int:
    nccl = constants.NCCL_BYTES if sharing.world_size > 1 else 0
    parallelism = sharing.parallelism
    if isinstance(parallelism, DdpParallelism):
        return nccl  # gradients are views into their buckets
    if isinstance(parallelism, FsdpParallelism):
        # gradients of the unit whose backward pass has ended are reduced while those of the next one are made
        units = trained_layer_parameters(work.model, work.method) + trained_root_parameters(work.model, work.method)
        return nccl + units * constants.GRADIENT_BYTES
    return nccl + _deepspeed_buckets(work, parallelism)


def _deepspeed_buckets(work: Computation, parallelism: DeepSpeedParallelism) -> int:
    """The reduce bucket is allocated whole, twice if communication overlaps (stages 1, 2), and what it holds is sent in
    fp32; the all-gather's bucket holds no more than there is to gather (stages 1, 2).

    Source: runtime/zero/stage_1_and_2.py `setup_buckets` and runtime/zero/stage3.py, 0.19.8.
    """
    trained = trained_parameters(work.model, work.method)
    bucket = parallelism.reduce_bucket_elements
    element = constants.GRADIENT_BYTES if parallelism.stage == 1 else work.compute_bytes
    sent = min(bucket, trained) * constants.GRADIENT_BYTES if element < constants.GRADIENT_BYTES else 0
    if parallelism.stage == 3:
        return bucket * element + sent
    buffers = 2 if parallelism.overlap_communication else 1
    gathered = min(parallelism.allgather_bucket_elements, trained)
    return buffers * bucket * element + sent + gathered * work.compute_bytes
