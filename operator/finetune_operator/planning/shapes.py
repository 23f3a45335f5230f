"""How many parameters a decoder model has, and where: arithmetic on its shape alone.

What a plan asks for again and again, once for each way to share the work, is kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from finetune_contract import ALL_LINEAR, AdapterMethod, Method, ModelFacts, QloraMethod

ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj")
"""These read the same tensor."""
MLP_INPUTS = ("gate_proj", "up_proj")
"""So do these."""
_HEAD = "lm_head"


class Kind(Enum):
    """What a weight is part of."""

    LINEAR = "a linear module"
    EXPERTS = "all experts of a layer"
    ROUTER = "what chooses the experts"
    OTHER = "norm or embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight of the model, [copies, outputs, inputs]; Qwen3 has no biases."""

    name: str
    """Of its module, as transformers calls it; of experts, its own."""
    layer: int | None
    """None: outside the layers."""
    kind: Kind
    inputs: int
    outputs: int
    copies: int = 1
    """Experts; 1 for all else."""

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return self.copies * self.outputs * self.inputs

    @property
    def short_name(self) -> str:
        """`q_proj`, `down_proj`."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A low-rank adapter on a weight."""

    weight: Weight
    rank: int
    has_magnitude: bool
    """DoRA's length of every row."""

    @property
    def parameters(self) -> int:
        """rank x (inputs + outputs) for each copy (arXiv 2106.09685, 4.1), and the magnitudes."""
        weight = self.weight
        halves = weight.copies * self.rank * (weight.inputs + weight.outputs)
        return halves + (weight.outputs if self.has_magnitude else 0)


def query_width(model: ModelFacts) -> int:
    """Width of all query heads together; not always the model's own width."""
    return model.num_attention_heads * model.head_dim


def key_width(model: ModelFacts) -> int:
    """Width of all key heads together, and of all value heads."""
    return model.num_key_value_heads * model.head_dim


def is_sparse(model: ModelFacts, layer: int) -> bool:
    """Whether `layer` has a mixture of experts in place of one MLP."""
    return model.experts is not None and layer not in model.experts.dense_layers


@lru_cache(maxsize=64)
def weights(model: ModelFacts) -> tuple[Weight, ...]:
    """All weights of the base model, layer by layer; a tied output head is the embedding, and counted once."""
    hidden, vocabulary = model.hidden_size, model.vocab_size
    found = [_other("model.embed_tokens", None, hidden, vocabulary)]
    for layer in range(model.num_layers):
        found += [*_attention(model, layer), *(_experts if is_sparse(model, layer) else _mlp)(model, layer)]
        found += [
            _other(f"model.layers.{layer}.{name}_layernorm", layer, hidden) for name in ("input", "post_attention")
        ]
    found.append(_other("model.norm", None, hidden))
    if not model.tied_embeddings:
        found.append(Weight(name=_HEAD, layer=None, kind=Kind.LINEAR, inputs=hidden, outputs=vocabulary))
    return tuple(found)


def _attention(model: ModelFacts, layer: int) -> list[Weight]:
    hidden, query, key = model.hidden_size, query_width(model), key_width(model)
    sizes = {"q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (query, hidden)}
    prefix = f"model.layers.{layer}.self_attn"
    norms = [_other(f"{prefix}.{name}", layer, model.head_dim) for name in ("q_norm", "k_norm")]
    return [*_linear(prefix, layer, sizes), *norms]


def _mlp(model: ModelFacts, layer: int) -> list[Weight]:
    hidden, inner = model.hidden_size, model.intermediate_size
    sizes = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    return _linear(f"model.layers.{layer}.mlp", layer, sizes)


def _linear(prefix: str, layer: int, sizes: dict[str, tuple[int, int]]) -> list[Weight]:
    return [
        Weight(name=f"{prefix}.{name}", layer=layer, kind=Kind.LINEAR, inputs=inputs, outputs=outputs)
        for name, (inputs, outputs) in sizes.items()
    ]


def _experts(model: ModelFacts, layer: int) -> list[Weight]:
    assert model.experts is not None
    hidden, inner, count = model.hidden_size, model.experts.intermediate_size, model.experts.count
    prefix, sizes = f"model.layers.{layer}.mlp", {"gate_up_proj": (hidden, 2 * inner), "down_proj": (inner, hidden)}
    router = Weight(name=f"{prefix}.gate", layer=layer, kind=Kind.ROUTER, inputs=hidden, outputs=count)
    return [router] + [
        Weight(
            name=f"{prefix}.experts.{name}",
            layer=layer,
            kind=Kind.EXPERTS,
            inputs=inputs,
            outputs=outputs,
            copies=count,
        )
        for name, (inputs, outputs) in sizes.items()
    ]


def _other(name: str, layer: int | None, inputs: int, outputs: int = 1) -> Weight:
    return Weight(name=name, layer=layer, kind=Kind.OTHER, inputs=inputs, outputs=outputs)


@lru_cache(maxsize=64)
def adapters(model: ModelFacts, method: AdapterMethod) -> tuple[Adapter, ...]:
    """The adapters of `method`. A name that matches nothing is the preparation's to refuse; it knows the real model."""
    return tuple(
        Adapter(weight=weight, rank=method.rank_of(weight.name), has_magnitude=method.use_dora)
        for weight in weights(model)
        if _is_adapted(model, method, weight)
    )


def _is_adapted(model: ModelFacts, method: AdapterMethod, weight: Weight) -> bool:
    """As the trainer decides it: of a mixture's layers, `targets` reach attention alone."""
    if weight.kind is Kind.EXPERTS:
        return _is_named(weight.name, method.target_parameters)
    if weight.kind is not Kind.LINEAR or (model.experts is not None and ".mlp." in weight.name):
        return False
    if method.targets == (ALL_LINEAR,):
        return weight.name != _HEAD
    return _is_named(weight.name, method.targets)


def _is_named(name: str, targets: Iterable[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


@lru_cache(maxsize=64)
def whole_weights(model: ModelFacts, method: Method) -> tuple[Weight, ...]:
    """The weights of the base that are trained themselves."""
    if isinstance(method, AdapterMethod):
        return tuple(weight for weight in weights(model) if weight.name.endswith(method.modules_to_save))
    return tuple(weight for weight in weights(model) if weight.kind is not Kind.ROUTER)


@lru_cache(maxsize=64)
def quantised_weights(model: ModelFacts, method: Method) -> tuple[Weight, ...]:
    """The weights that QLoRA stores in four bits: the products of the layers, but what is trained whole."""
    if not isinstance(method, QloraMethod):
        return ()
    kept = {weight.name for weight in whole_weights(model, method)} | {_HEAD}
    kinds = (Kind.LINEAR, Kind.EXPERTS)
    return tuple(weight for weight in weights(model) if weight.kind in kinds and weight.name not in kept)


@lru_cache(maxsize=64)
def layer_parameters(model: ModelFacts) -> int:
    """Parameters of the largest decoder layer."""
    return max(_by_layer(model, weights(model)))


@lru_cache(maxsize=64)
def root_parameters(model: ModelFacts) -> int:
    """Parameters outside the layers: embedding, last norm, and an output head of its own unless it is tied."""
    return sum(weight.parameters for weight in weights(model) if weight.layer is None)


@lru_cache(maxsize=64)
def model_parameters(model: ModelFacts) -> int:
    """All parameters of the base model."""
    return sum(weight.parameters for weight in weights(model))


@lru_cache(maxsize=64)
def active_parameters(model: ModelFacts) -> int:
    """Parameters that one token goes through: of a mixture, those of the experts that it is sent to."""
    idle = 0
    if model.experts is not None:
        of_experts = sum(weight.parameters for weight in weights(model) if weight.kind is Kind.EXPERTS)
        idle = of_experts * (model.experts.count - model.experts.per_token) // model.experts.count
    return model_parameters(model) - idle


@lru_cache(maxsize=64)
def trained_layer_parameters(model: ModelFacts, method: Method) -> int:
    """Trained parameters of the decoder layer that has most of them."""
    return max(_by_layer(model, _trained(model, method)))


@lru_cache(maxsize=64)
def trained_root_parameters(model: ModelFacts, method: Method) -> int:
    """Trained parameters outside the layers."""
    return sum(_size(each) for each in _trained(model, method) if _layer(each) is None)


@lru_cache(maxsize=64)
def trained_parameters(model: ModelFacts, method: Method) -> int:
    """All trained parameters."""
    return sum(_size(each) for each in _trained(model, method))


def _trained(model: ModelFacts, method: Method) -> tuple[Weight | Adapter, ...]:
    whole = whole_weights(model, method)
    return (*whole, *adapters(model, method)) if isinstance(method, AdapterMethod) else whole


def _by_layer(model: ModelFacts, parts: Iterable[Weight | Adapter]) -> list[int]:
    sums = [0] * model.num_layers
    for each in parts:
        layer = _layer(each)
        if layer is not None:
            sums[layer] += _size(each)
    return sums


def _layer(part: Weight | Adapter) -> int | None:
    return part.layer if isinstance(part, Weight) else part.weight.layer


def _size(part: Weight | Adapter) -> int:
    return part.parameters
