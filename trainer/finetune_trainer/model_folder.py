"""What a model folder must hold before anything is trained on it: a Qwen3, its weights, its tokenizer."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from finetune_contract import ExpertFacts, FullMethod, Method, ModelFacts
from finetune_trainer import targets
from finetune_trainer.data.digests import file_digest
from finetune_trainer.data.errors import PreparationError

MODEL_TYPES = ("qwen3", "qwen3_moe")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip


def model_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json, once the folder is found to be a whole Qwen3.

    Raises: PreparationError that says what is missing or what was found instead.
    """
    config = _read_json(folder / "config.json")
    found = config.get("model_type")
    if found not in MODEL_TYPES:
        raise PreparationError(
            "ModelNotSupported",
            f"model: {folder.name} has model_type {found}; this kit trains Qwen3 (model_type {' or '.join(MODEL_TYPES)}"
            "), such as Qwen/Qwen3-0.6B, 1.7B, 4B, 8B, 14B, 32B, 30B-A3B or 235B-A22B",
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
    from transformers import Qwen3Config, Qwen3MoeConfig

    is_mixture = config.get("model_type") == "qwen3_moe"
    shape = (Qwen3MoeConfig if is_mixture else Qwen3Config).from_dict(config)
    return ModelFacts(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads,
        vocab_size=shape.vocab_size,
        tied_embeddings=shape.tie_word_embeddings,
        experts=_expert_facts(shape) if is_mixture else None,
    )


def _expert_facts(shape: Any) -> ExpertFacts | None:
    """The mixture of a Qwen3MoeConfig; its layers are told apart as transformers' Qwen3MoeDecoderLayer does."""
    dense_layers = tuple(
        layer
        for layer in range(shape.num_hidden_layers)
        if layer in shape.mlp_only_layers or not shape.num_experts or (layer + 1) % shape.decoder_sparse_step
    )
    if len(dense_layers) == shape.num_hidden_layers:
        return None
    return ExpertFacts(
        count=shape.num_experts,
        per_token=shape.num_experts_per_tok,
        intermediate_size=shape.moe_intermediate_size,
        dense_layers=dense_layers,
    )


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files that shape the tokenizer."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    entries = [(file.name, file_digest(file)) for file in files]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def check_targets(facts: ModelFacts, method: Method) -> None:
    """Raise a PreparationError if a name in `method` matches nothing in the model, or what must not change."""
    if isinstance(method, FullMethod):
        return
    try:
        targets.check(targets.parts_of(facts), method)
    except targets.TargetError as error:
        raise PreparationError(error.reason, str(error)) from error


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
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb"):  # safe_open calls a file that may not be read a missing one
            pass
        try:
            safe_open(file, framework="np")
        except SafetensorError as error:
            raise _incomplete(folder, f"a broken {file.name} ({error}), to be copied or downloaded anew") from error


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
