"""Counts what autograd saves for the trainer's own model, on a CPU."""

from collections.abc import Iterator
from typing import Any

from finetune_contract import FullMethod, LoraMethod, ModelFacts, Precision

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
TOKENS = 256


def saved_bytes_of_one_layer(torch: Any, method: LoraMethod | FullMethod, precision: Precision) -> float:
    """Bytes per token that one decoder layer leaves for the backward pass: four layers less two, halved."""
    few, many = (_saved_bytes(torch, method, precision, layers) for layers in (2, 4))
    return (many - few) / 2 / TOKENS


def _saved_bytes(torch: Any, method: LoraMethod | FullMethod, precision: Precision, layers: int) -> int:
    """Whatever has one row per token: adapters' and autocast's copies of weights are counted elsewhere."""
    from finetune_trainer.attention import Documents

    model = _model(torch, method, precision, layers)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    documents = Documents((0, TOKENS), torch.tensor([[0], [TOKENS]], dtype=torch.int32), TOKENS)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision is not Precision.FP32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model(
            input_ids=torch.zeros((1, TOKENS), dtype=torch.int64),
            position_ids=torch.arange(TOKENS)[None],
            documents=documents,
            use_cache=False,
            logits_to_keep=1,
        )
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values() if TOKENS in tensor.shape)


def _model(torch: Any, method: LoraMethod | FullMethod, precision: Precision, layers: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from finetune_trainer.attention import ATTENTION

    config = Qwen3Config(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=SHAPE.num_attention_heads,
        num_key_value_heads=SHAPE.num_key_value_heads,
        head_dim=SHAPE.head_dim,
        tie_word_embeddings=True,
    )
    config._attn_implementation = ATTENTION
    model: Any = Qwen3ForCausalLM(config).train()
    if isinstance(method, LoraMethod):
        model = _with_adapters(torch, model, method, precision)
    return model


def _with_adapters(torch: Any, model: Any, method: LoraMethod, precision: Precision) -> Any:
    from peft import LoraConfig, get_peft_model

    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    adapted: Any = get_peft_model(
        model.to(dtype), LoraConfig(r=method.rank, target_modules=list(method.targets), task_type="CAUSAL_LM")
    )
    for parameter in _trained(adapted):
        parameter.data = parameter.data.float()
    return adapted


def _trained(model: Any) -> Iterator[Any]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
