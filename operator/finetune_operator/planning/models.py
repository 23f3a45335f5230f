"""Shapes of the Qwen3 models by hub id, so that a run can be planned before anything is downloaded.

Source: each repository's config.json. The preparation reads the real one; these only make the first plan.
"""

import re

from finetune_contract import ExpertFacts, ModelFacts

_VOCAB_SIZE = 151_936
_HEAD_DIM = 128
_NUM_KEY_VALUE_HEADS = 8


def _dense(hidden_size: int, intermediate_size: int, layers: int, heads: int, *, tied: bool) -> ModelFacts:
    return ModelFacts(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_NUM_KEY_VALUE_HEADS,
        head_dim=_HEAD_DIM,
        vocab_size=_VOCAB_SIZE,
        tied_embeddings=tied,
    )


def _mixture(hidden_size: int, intermediate_size: int, layers: int, heads: int, expert_size: int) -> ModelFacts:
    """All layers have 128 experts, of which a token goes through 8."""
    dense = _dense(hidden_size, intermediate_size, layers, heads, tied=False)
    experts = ExpertFacts(count=128, per_token=8, intermediate_size=expert_size)
    return dense.model_copy(update={"num_key_value_heads": 4, "experts": experts})


SHAPES = {
    "0.6B": _dense(1024, 3072, 28, 16, tied=True),
    "1.7B": _dense(2048, 6144, 28, 16, tied=True),
    "4B": _dense(2560, 9728, 36, 32, tied=True),
    "8B": _dense(4096, 12288, 36, 32, tied=False),
    "14B": _dense(5120, 17408, 40, 40, tied=False),
    "32B": _dense(5120, 25600, 64, 64, tied=False),
    "30B-A3B": _mixture(2048, 6144, 48, 32, 768),
    "235B-A22B": _mixture(4096, 12288, 94, 64, 1536),
}
# Quantised repositories (-FP8, -AWQ, -GGUF) have other weights: not known here.
_NAME = re.compile(r"Qwen3-(?P<size>[0-9.]+B(-A[0-9]+B)?)(-Base|-Instruct|-Thinking)?(-2507)?", re.IGNORECASE)


def known_model(model_id: str | None) -> ModelFacts | None:
    """The shape of the model with this hub id, whoever mirrors it; None when the id tells nothing."""
    match = _NAME.fullmatch((model_id or "").rpartition("/")[2])
    return SHAPES.get(match["size"].upper()) if match else None
