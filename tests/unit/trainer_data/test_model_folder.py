"""Only a whole, unquantized Qwen3 is trained, and only on modules that it has."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen3Config

from finetune_contract import ExpertFacts, FullMethod, LoraMethod, ModelFacts
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.model_folder import check_targets, model_config, model_facts, tokenizer_digest


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def lora(*targets: str) -> LoraMethod:
    return LoraMethod(rank=4, alpha=8, dropout=0, targets=targets)


def change_config(model: Path, **fields: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def failure_of(model: Path) -> tuple[str, str]:
    with pytest.raises(PreparationError) as caught:
        model_config(model)
    return caught.value.failure.reason, caught.value.failure.message


def test_the_facts_are_those_of_the_config(model: Path) -> None:
    facts = model_facts(model_config(model))
    assert facts.model_dump() == {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 1024,
        "tied_embeddings": True,
        "experts": None,
    }


def test_the_facts_of_a_mixture_tell_its_experts_and_which_layers_have_none() -> None:
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    experts = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 96, "head_dim": 64}
    facts = model_facts(config | experts)
    assert facts.experts == ExpertFacts(count=16, per_token=4, intermediate_size=96, dense_layers=(0, 2, 3, 4))
    assert facts.head_dim == 64
    assert model_facts(config | {"num_experts": 0}).experts is None


def test_facts_missing_in_the_config_are_transformers_own_defaults() -> None:
    facts, defaults = model_facts({"model_type": "qwen3", "hidden_size": 64}), Qwen3Config()
    assert (facts.hidden_size, facts.head_dim, facts.num_layers) == (64, defaults.head_dim, defaults.num_hidden_layers)


@pytest.mark.parametrize("found", ["qwen2_moe", "llama", None])
def test_another_architecture_is_refused_by_what_was_found(model: Path, found: str | None) -> None:
    change_config(model, model_type=found)
    reason, message = failure_of(model)
    assert reason == "ModelNotSupported"
    assert (
        f"has model_type {found}; this kit trains Qwen3 (model_type qwen3 or qwen3_moe), such as Qwen/Qwen3-0.6B"
        in message
    )


def test_quantized_weights_are_refused(model: Path) -> None:
    change_config(model, quantization_config={"quant_method": "fp8"})
    reason, message = failure_of(model)
    assert reason == "ModelQuantized"
    assert "holds fp8 weights; use the repository without quantization" in message


def drop(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


def only_a_pickle(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def a_shard_is_missing(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def cut_off(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (cut_off, "has a broken model.safetensors ("),
        (drop("config.json"), "has no config.json"),
        (lambda model: (model / "config.json").write_text("{"), "has config.json is broken JSON"),
        (lambda model: (model / "config.json").write_text("[]"), "has config.json holds no object"),
        (drop("model.safetensors"), "has no *.safetensors; expected"),
        (only_a_pickle, "has no *.safetensors; pytorch_model.bin is a pickle, which is never loaded: convert it"),
        (a_shard_is_missing, "names model-00002-of-00002.safetensors, not there"),
        (drop("tokenizer.json"), "has no tokenizer.json and no vocab.json"),
    ],
)
def test_an_incomplete_folder_is_refused_by_what_is_missing(
    model: Path, breaks: Callable[[Path], None], said: str
) -> None:
    breaks(model)
    reason, message = failure_of(model)
    assert reason == "ModelIncomplete"
    assert said in message
    assert "expected config.json, *.safetensors and tokenizer.json as in Qwen/Qwen3-8B" in message


@pytest.fixture(scope="module")
def facts(tiny_model: Path) -> ModelFacts:
    return model_facts(model_config(tiny_model))


@pytest.mark.parametrize("targets", [("q_proj", "down_proj"), ("all-linear",), ("model.layers.3.self_attn.o_proj",)])
def test_linear_modules_can_be_targets(facts: ModelFacts, targets: tuple[str, ...]) -> None:
    check_targets(facts, lora(*targets))


def test_the_head_can_be_a_target_where_it_has_a_weight_of_its_own(facts: ModelFacts) -> None:
    check_targets(facts.model_copy(update={"tied_embeddings": False}), lora("lm_head"))


def test_full_training_has_no_targets(facts: ModelFacts) -> None:
    check_targets(facts, FullMethod())


@pytest.mark.parametrize(
    ("target", "reason", "said"),
    [
        ("q_prj", "TargetNotFound", "method.lora.targets: q_prj is no linear module of the model; allowed are down_"),
        ("q_prj", "TargetNotFound", "did you mean q_proj?"),
        ("proj", "TargetNotFound", "proj is no linear module of the model"),
        ("embed_tokens", "TargetNotFound", "embed_tokens is no linear module of the model"),
        ("model.layers.4.self_attn.o_proj", "TargetNotFound", "is no linear module of the model"),
        ("lm_head", "TargetTied", "lm_head shares its weight with the token embedding in this model"),
    ],
)
def test_a_target_that_matches_nothing_is_refused_with_its_neighbours(
    facts: ModelFacts, target: str, reason: str, said: str
) -> None:
    with pytest.raises(PreparationError) as caught:
        check_targets(facts, lora("v_proj", target))
    assert caught.value.failure.reason == reason
    assert said in caught.value.failure.message


def test_the_tokenizers_digest_changes_with_its_files_alone(model: Path) -> None:
    before = tokenizer_digest(model)
    change_config(model, max_position_embeddings=1)
    assert tokenizer_digest(model) == before
    (model / "tokenizer_config.json").write_text("{}")
    assert tokenizer_digest(model) != before
