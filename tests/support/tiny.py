"""Tiny Qwen3 models for tests."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Literal

from support.tokenizer import qwen3_tokenizer_dir

EXAMPLES = Path(__file__).parents[2] / "examples"
HUANHUAN = EXAMPLES / "huanhuan.json"
REAL_VOCAB_SIZE = 151_936
ODD_VOCAB_SIZE = 1031
"""A prime: no number of ranks divides it."""


def tiny_model_dir(folder: Path, tokenizer: Literal["real", "tiny"] = "tiny") -> Path:
    """A complete model folder below `folder`: Qwen3 with random weights and Qwen3's own tokenizer, or a tiny one."""
    target = folder / f"tiny-qwen3-{tokenizer}"
    maker = make_model_script()
    if tokenizer == "tiny":
        maker.make_model(target)
    else:
        target.mkdir(parents=True)
        for file in qwen3_tokenizer_dir().iterdir():
            shutil.copy(file, target)
        maker.save_model(target, maker.tiny_config(REAL_VOCAB_SIZE, hidden_size=32, num_layers=2))
    return target


def wide_model_dir(folder: Path) -> Path:
    """A Qwen3 of two layers with weights that ZeRO-3 parts with between two uses: it keeps those below 100,000."""
    target = folder / "wide-qwen3"
    maker = make_model_script()
    target.mkdir(parents=True)
    maker.save_tokenizer(target)
    maker.save_model(target, maker.tiny_config(maker.VOCAB_SIZE, hidden_size=256, num_layers=2))
    return target


def odd_model_dir(folder: Path) -> Path:
    """A Qwen3 of two thin layers whose matrices no number of ranks cuts into equal parts; the tiny tokenizer."""
    target = folder / "odd-qwen3"
    maker = make_model_script()
    target.mkdir(parents=True)
    maker.save_tokenizer(target)
    maker.save_model(target, maker.tiny_config(ODD_VOCAB_SIZE, hidden_size=34, num_layers=2))
    return target


def tiny_mixture_dir(folder: Path, *, vocab_size: int = 1024) -> Path:
    """A Qwen3 mixture of experts with Qwen3-30B-A3B's architecture in small, in the layout of the hubs."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    target = folder / "tiny-qwen3-moe"
    target.mkdir(parents=True)
    make_model_script().save_tokenizer(target)
    torch.manual_seed(20250428)
    config = Qwen3MoeConfig(  # type: ignore[call-arg] # head_dim is known, and not in its signature
        vocab_size=vocab_size, hidden_size=64, intermediate_size=192, moe_intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=True, max_position_embeddings=40960, tie_word_embeddings=False, dtype="float32",
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mlp." in name:
                parameter.mul_(5.0)  # so that tokens differ in their experts, and experts in their answers
    model.save_pretrained(target)
    return target


def make_model_script() -> ModuleType:
    """examples/tiny/make_model.py as a module."""
    spec = importlib.util.spec_from_file_location("make_model", EXAMPLES / "tiny" / "make_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
