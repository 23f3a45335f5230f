"""What a forward pass leaves for the backward pass, in bytes per token.

Counted from the tensors that autograd saves for the trainer's model: transformers' Qwen3 modules, PEFT's adapters,
varlen attention. Three things decide: which weights are trained (a frozen projection saves nothing of its input),
whether products run under autocast (DDP: every trained projection then keeps its own cast of its input, where FSDP and
DeepSpeed hold weights in the compute format and siblings share one), and which layers are recomputed.
"""

from collections.abc import Collection
from dataclasses import dataclass

from finetune_contract import ActivationCheckpointing, DdpParallelism, LoraMethod, Method, ModelFacts, Parallelism
from finetune_operator.planning.memory_constants import DROPOUT_MASK_BYTES, NORM_COPY_BYTES
from finetune_operator.planning.shapes import (
    ATTENTION_INPUTS,
    MLP_INPUTS,
    adapted_projections,
    key_width,
    projections,
    query_width,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """What the saved tensors of a token depend on."""

    model: ModelFacts
    method: Method
    compute_bytes: int
    """Of one element of the matrix products."""
    has_autocast: bool

    @property
    def stream_bytes(self) -> int:
        """Of one element of the residual stream: a trained embedding under autocast gives fp32."""
        is_fp32 = self.has_autocast and not isinstance(self.method, LoraMethod)
        return 4 if is_fp32 else self.compute_bytes


def computation(model: ModelFacts, method: Method, compute_bytes: int, parallelism: Parallelism) -> Computation:
    """How `parallelism` computes: DDP under autocast unless in fp32, the others in the compute format throughout."""
    has_autocast = isinstance(parallelism, DdpParallelism) and compute_bytes < 4
    return Computation(model=model, method=method, compute_bytes=compute_bytes, has_autocast=has_autocast)


def saved_bytes_per_token(work: Computation, checkpointing: ActivationCheckpointing) -> int:
    """Over all layers; with Full only each layer's input, and one layer at a time made anew."""
    layer, layers = layer_bytes(work), work.model.num_layers
    if checkpointing is ActivationCheckpointing.NONE:
        return layers * layer
    return layers * work.model.hidden_size * work.stream_bytes + layer


def layer_bytes(work: Computation) -> int:
    """Saved by one decoder layer."""
    return norm_bytes(work) + attention_bytes(work) + mlp_bytes(work) + projection_bytes(work)


def norm_bytes(work: Computation) -> int:
    """Inputs of the two norms of the stream and of those of query and key, and, where norms are trained, what they
    normalised."""
    stream = 2 * work.model.hidden_size
    heads = query_width(work.model) + key_width(work.model)
    inputs = NORM_COPY_BYTES * (stream + heads)
    if isinstance(work.method, LoraMethod):
        return inputs
    return inputs + stream * work.stream_bytes + heads * work.compute_bytes


def attention_bytes(work: Computation) -> int:
    """Query, key and value (repeated for every query head), and the result."""
    return 4 * query_width(work.model) * work.compute_bytes


def mlp_bytes(work: Computation) -> int:
    """Gate, its SiLU, and up."""
    return 3 * work.model.intermediate_size * work.compute_bytes


def projection_bytes(work: Computation) -> int:
    """Inputs of the projections that train something, dropout's masks, and the adapters' narrow middles."""
    every = projections(work.model)
    if not isinstance(work.method, LoraMethod):
        return work.compute_bytes * _input_elements(work, every, are_separate=work.has_autocast)
    names = adapted_projections(work.model, work.method)
    has_dropout = work.method.dropout > 0
    inputs = work.compute_bytes * _input_elements(work, names, are_separate=work.has_autocast or has_dropout)
    masks = DROPOUT_MASK_BYTES * sum(every[name].inputs for name in names) if has_dropout else 0
    return inputs + masks + work.compute_bytes * work.method.rank * len(names)


def _input_elements(work: Computation, names: Collection[str], *, are_separate: bool) -> int:
    """Elements of the inputs of the projections `names`; siblings share one unless their inputs are separate."""
    every = projections(work.model)
    if are_separate:
        return sum(every[name].inputs for name in names)
    kept = [name for name in names if name not in (*ATTENTION_INPUTS, *MLP_INPUTS)]
    for siblings in (ATTENTION_INPUTS, MLP_INPUTS):
        kept += [name for name in siblings if name in names][:1]
    return sum(every[name].inputs for name in kept)
