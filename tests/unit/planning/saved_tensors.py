"""Counts what autograd saves for the trainer's own model, on a CPU."""

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3MoeConfig

from finetune_contract import ExpertFacts, Method, ModelFacts, Precision
from finetune_trainer import methods
from finetune_trainer.attention import Documents
from finetune_trainer.model import move_buffers, set_dtypes, skeleton

SHAPE = ModelFacts(
    hidden_size=640,
    intermediate_size=1536,
    num_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=96,
    vocab_size=512,
    tied_embeddings=True,
)
MIXTURE = SHAPE.model_copy(
    update={"tied_embeddings": False, "experts": ExpertFacts(count=8, per_token=3, intermediate_size=192)}
)
TOKENS = 131
"""A number that is no other size."""


def saved_bytes_of_one_layer(shape: ModelFacts, method: Method, precision: Precision) -> float:
    """Bytes per token that one decoder layer leaves for the backward pass: four layers less two, halved."""
    few, many = (_saved_bytes(shape, method, precision, layers) for layers in (2, 4))
    return (many - few) / 2 / TOKENS


def _saved_bytes(shape: ModelFacts, method: Method, precision: Precision, layers: int) -> int:
    """Whatever has one row per token, or per token and expert: copies of weights are counted elsewhere."""
    model = _model(shape, method, precision, layers)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    documents = Documents((0, TOKENS), torch.tensor([[0], [TOKENS]], dtype=torch.int32), TOKENS)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision is not Precision.FP32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model(
            input_ids=torch.arange(TOKENS)[None],
            position_ids=torch.arange(TOKENS)[None],
            documents=documents,
            use_cache=False,
            logits_to_keep=1,
        )
    rows = {TOKENS * (shape.experts.per_token if shape.experts else 1), TOKENS}
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values() if rows & set(tensor.shape))


def _model(shape: ModelFacts, method: Method, precision: Precision, layers: int) -> Any:
    """With random weights; what a run does with them, for DDP."""
    model = skeleton(_config(shape, layers))
    adapted = methods.chosen(method).apply(model, method, base_name="shape")
    frozen = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    set_dtypes(adapted, trained=torch.float32, frozen=frozen)
    move_buffers(adapted, torch.device("cpu"))
    for name, parameter in list(adapted.named_parameters(remove_duplicate=False)):
        owner, _, key = name.rpartition(".")
        module = adapted.get_submodule(owner)
        if module._parameters[key].is_meta:  # type: ignore[union-attr]
            module._parameters[key] = _random(parameter)
    adapted.tie_weights()
    return adapted.train()


def _random(parameter: Tensor) -> torch.nn.Parameter:
    if parameter.dtype is torch.uint8:
        made = torch.full(parameter.shape, 60, dtype=torch.uint8)  # as a scale, 0.01
    else:
        made = torch.randn(parameter.shape, dtype=parameter.dtype) * 0.02
    return torch.nn.Parameter(made, requires_grad=parameter.requires_grad)


def _config(shape: ModelFacts, layers: int) -> Qwen3Config | Qwen3MoeConfig:
    values: dict[str, Any] = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied_embeddings,
    }
    if shape.experts is None:
        return Qwen3Config(**values)
    experts = shape.experts
    return Qwen3MoeConfig(
        **values, num_experts=experts.count, num_experts_per_tok=experts.per_token,
        moe_intermediate_size=experts.intermediate_size,
    )  # fmt: skip
