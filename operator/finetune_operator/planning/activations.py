"""What a forward pass leaves for the backward pass, in bytes per token.

Counted from the tensors that autograd saves for the trainer's model: transformers' Qwen3 modules, PEFT's adapters,
varlen attention, grouped experts. Three things decide: which weights are trained (a frozen projection saves nothing of
its input), whether products run under autocast (DDP: every trained projection then keeps its own cast of its input,
where FSDP and DeepSpeed hold weights in the compute format and siblings share one), and which layers are recomputed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from finetune_contract import ActivationCheckpointing, AdapterMethod, DdpParallelism, Method, ModelFacts, Parallelism
from finetune_operator.planning.memory_constants import DROPOUT_MASK_BYTES, INDEX_BYTES, NORM_COPY_BYTES, ROUTER_BYTES
from finetune_operator.planning.shapes import (
    ATTENTION_INPUTS,
    MLP_INPUTS,
    Adapter,
    Kind,
    Weight,
    adapters,
    is_sparse,
    key_width,
    query_width,
    weights,
    whole_weights,
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
    def is_full(self) -> bool:
        """Whether the base itself is trained."""
        return not isinstance(self.method, AdapterMethod)

    @property
    def stream_bytes(self) -> int:
        """Of one element of the residual stream: a trained embedding under autocast gives fp32."""
        trains_embedding = any(weight.name == "model.embed_tokens" for weight in whole_weights(self.model, self.method))
        return 4 if self.has_autocast and trains_embedding else self.compute_bytes


def computation(model: ModelFacts, method: Method, compute_bytes: int, parallelism: Parallelism) -> Computation:
    """How `parallelism` computes: DDP under autocast unless in fp32, the others in the compute format throughout."""
    has_autocast = isinstance(parallelism, DdpParallelism) and compute_bytes < 4
    return Computation(model=model, method=method, compute_bytes=compute_bytes, has_autocast=has_autocast)


def saved_bytes_per_token(work: Computation, checkpointing: ActivationCheckpointing) -> int:
    """Over all layers; with Full only each layer's input, and one layer at a time made anew."""
    layers = all_layers_bytes(work)
    if checkpointing is ActivationCheckpointing.NONE:
        return sum(layers)
    return len(layers) * work.model.hidden_size * work.stream_bytes + max(layers)


@lru_cache(maxsize=64)
def all_layers_bytes(work: Computation) -> tuple[int, ...]:
    """Saved by each decoder layer; they differ in their adapters, and in whether they have experts."""
    projections: list[list[Weight | Adapter]] = [[] for _ in range(work.model.num_layers)]
    if isinstance(work.method, AdapterMethod):
        for adapter in adapters(work.model, work.method):
            if adapter.weight.layer is not None:
                projections[adapter.weight.layer].append(adapter)
    norms: list[list[str]] = [[] for _ in projections]
    for weight in whole_weights(work.model, work.method):
        if weight.layer is not None and weight.kind in (Kind.LINEAR, Kind.EXPERTS):
            projections[weight.layer].append(weight)
        elif weight.layer is not None:
            norms[weight.layer].append(weight.short_name)
    fixed, stream_bytes = attention_bytes(work), work.stream_bytes
    return tuple(
        fixed + norm_bytes(work, norms[layer], stream_bytes) + mlp_bytes(work, layer) + projection_bytes(work, trained)
        for layer, trained in enumerate(projections)
    )


def norm_bytes(work: Computation, trained: Collection[str], stream_bytes: int) -> int:
    """Inputs of the two norms of the stream and of those of query and key, and, where norms are trained, what they
    normalised."""
    hidden, query, key = work.model.hidden_size, query_width(work.model), key_width(work.model)
    inputs = NORM_COPY_BYTES * (2 * hidden + query + key)
    of_stream = hidden * sum(name.endswith("layernorm") for name in trained)
    of_heads = query * ("q_norm" in trained) + key * ("k_norm" in trained)
    return inputs + of_stream * stream_bytes + of_heads * work.compute_bytes


def attention_bytes(work: Computation) -> int:
    """Query, key and value (repeated for every query head), and the result."""
    return 4 * query_width(work.model) * work.compute_bytes


def mlp_bytes(work: Computation, layer: int) -> int:
    """Gate, its SiLU, and up; of a mixture, for each of a token's experts, and what is needed to weigh them up."""
    if not is_sparse(work.model, layer):
        return 3 * work.model.intermediate_size * work.compute_bytes
    experts = work.model.experts
    assert experts is not None
    row = (3 * experts.intermediate_size + work.model.hidden_size) * work.compute_bytes + INDEX_BYTES
    return experts.per_token * row + experts.count * ROUTER_BYTES


def projection_bytes(work: Computation, trained: Sequence[Weight | Adapter]) -> int:
    """Inputs of a layer's projections that train something, dropout's masks, the adapters' narrow middles, and what
    DoRA scales."""
    found = [each for each in trained if isinstance(each, Adapter)]
    names = [each.weight if isinstance(each, Adapter) else each for each in trained]
    has_dropout = isinstance(work.method, AdapterMethod) and work.method.dropout > 0
    inputs = work.compute_bytes * _input_elements(work, names, are_separate=work.has_autocast or has_dropout)
    masks = DROPOUT_MASK_BYTES * sum(each.weight.inputs for each in found) if has_dropout else 0
    middles = sum(_rows(work, each.weight) * _middle_width(each) for each in found)
    scaled = sum(each.weight.outputs for each in found if each.has_magnitude)
    return inputs + masks + work.compute_bytes * (middles + scaled)


def _middle_width(adapter: Adapter) -> int:
    """Grouped products fill ranks up to multiples of eight."""
    return -(-adapter.rank // 8) * 8 if adapter.weight.kind is Kind.EXPERTS else adapter.rank


def _rows(work: Computation, weight: Weight) -> int:
    """How often a token goes through `weight`."""
    return work.model.experts.per_token if weight.kind is Kind.EXPERTS and work.model.experts else 1


def _input_elements(work: Computation, chosen: Collection[Weight], *, are_separate: bool) -> int:
    """Elements of the inputs of the projections `chosen`; siblings share one unless their inputs are separate."""
    if are_separate:
        return sum(_rows(work, weight) * weight.inputs for weight in chosen)
    kept = [weight for weight in chosen if weight.short_name not in (*ATTENTION_INPUTS, *MLP_INPUTS)]
    for siblings in (ATTENTION_INPUTS, MLP_INPUTS):
        kept += [weight for weight in chosen if weight.short_name in siblings][:1]
    return sum(_rows(work, weight) * weight.inputs for weight in kept)


def widest_inside(work: Computation) -> int:
    """Elements per token inside of an MLP or mixture whose gradients live at once: gate, up and what they give."""
    dense = 3 * work.model.intermediate_size
    experts = work.model.experts
    if experts is None:
        return dense
    sparse = experts.per_token * (3 * experts.intermediate_size + 2 * work.model.hidden_size)
    return max(sparse, dense) if experts.dense_layers else sparse


@lru_cache(maxsize=64)
def largest_weight(model: ModelFacts) -> int:
    """Elements of the largest product of the layers."""
    kinds = (Kind.LINEAR, Kind.EXPERTS)
    return max(weight.parameters for weight in weights(model) if weight.kind in kinds and weight.layer is not None)
