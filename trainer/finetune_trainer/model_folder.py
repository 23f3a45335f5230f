"""What a model folder must hold before anything is trained on it: a dense Qwen3, its weights, its tokenizer."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_contract import FullMethod, Method, ModelFacts
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.folders import file_digest

MODEL_TYPE = "qwen3"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
ALL_LINEAR = "all-linear"
LAYER_LINEAR = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


def model_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json, once the folder is found to be a whole and dense Qwen3.

    Raises: PreparationError that says what is missing or what was found instead.
    """
    config = _read_json(folder / "config.json")
    found = config.get("model_type")
    if found != MODEL_TYPE:
        raise PreparationError(
            "ModelNotSupported",
            f"model: {folder.name} has model_type {found}; this kit trains dense Qwen3 (model_type {MODEL_TYPE}), "
            "such as Qwen/Qwen3-0.6B, 1.7B, 4B, 8B, 14B or 32B",
        )
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise PreparationError(
            "ModelQuantized",
            f"model: {folder.name} holds {method} weights; use the repository without quantization (Qwen/Qwen3-8B "
            "rather than Qwen/Qwen3-8B-FP8)",
        )
    _check_weights(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise _incomplete(folder, "no tokenizer.json and no vocab.json")
    return config


def model_facts(config: dict[str, Any]) -> ModelFacts:
    """The shape of the model, for the memory estimate; what config.json leaves out is transformers' own default."""
    from transformers import Qwen3Config

    shape = Qwen3Config.from_dict(config)
    return ModelFacts(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        tied_embeddings=shape.tie_word_embeddings,
    )


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files that shape the tokenizer."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    entries = [(file.name, file_digest(file)) for file in files]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def check_targets(facts: ModelFacts, method: Method) -> None:
    """Raise a PreparationError if a LoRA target names no linear module of the model, or one that must not change."""
    if isinstance(method, FullMethod) or method.targets == (ALL_LINEAR,):
        return
    linear = linear_modules(facts)
    for target in method.targets:
        matched = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not matched:
            raise _no_such_target(target, linear)
        if facts.tied_embeddings and "lm_head" in matched:
            raise PreparationError(
                "TargetTied",
                f"method.lora.targets: {target} shares its weight with the token embedding in this model, and an "
                "adapter on it would be lost or doubled when merged; leave it out",
            )


def linear_modules(facts: ModelFacts) -> list[str]:
    """Names of all linear modules of a dense Qwen3, as transformers builds it.

    Written down rather than read off a model: building one costs the preparation more time than tokenizing. A test
    holds the two together.
    """
    return [*(f"model.layers.{layer}.{name}" for layer in range(facts.num_layers) for name in LAYER_LINEAR), "lm_head"]


def _no_such_target(target: str, linear: Sequence[str]) -> PreparationError:
    allowed = sorted({name.rsplit(".", 1)[-1] for name in linear})
    close = difflib.get_close_matches(target, allowed, n=1)
    return PreparationError(
        "TargetNotFound",
        f"method.lora.targets: {target} is no linear module of the model; allowed are {', '.join(allowed)}, or "
        f"{ALL_LINEAR} alone" + (f"; did you mean {close[0]}?" if close else ""),
    )


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted(
            {shard for shard in _read_json(index).get("weight_map", {}).values() if not (folder / shard).is_file()}
        )
        if missing:
            raise _incomplete(folder, f"{index.name} names {', '.join(missing[:3])}, not there")
    elif not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
        seen = f"; {', '.join(pickles[:3])} is a pickle, which is never loaded: convert it" if pickles else ""
        raise _incomplete(folder, f"no *.safetensors{seen}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _incomplete(file.parent, f"no {file.name}") from None
    except ValueError as error:
        raise _incomplete(file.parent, f"{file.name} is broken JSON: {error}") from error
    if not isinstance(value, dict):
        raise _incomplete(file.parent, f"{file.name} holds no object")
    return value


def _incomplete(folder: Path, what: str) -> PreparationError:
    return PreparationError(
        "ModelIncomplete",
        f"model: {folder} has {what}; expected config.json, *.safetensors and tokenizer.json as in Qwen/Qwen3-8B",
    )
