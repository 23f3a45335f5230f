"""Names of modules: those that a shape promises, what targets, patterns and modules to save mean, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from finetune_contract import ModelFacts, QloraMethod
from finetune_trainer import targets
from finetune_trainer.failures import UserError
from finetune_trainer.methods import lora
from finetune_trainer.model import load_config, skeleton
from finetune_trainer.model_folder import model_config, model_facts
from support.adapted import EXPERTS, LORA, method_of


def facts_of(folder: Path) -> ModelFacts:
    return model_facts(model_config(folder))


@pytest.mark.parametrize("folder", ["model", "mixture"])
def test_the_parts_that_a_shape_promises_are_those_of_the_real_model(
    folder: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    promised, real = targets.parts_of(facts_of(path)), lora.parts_in(skeleton(load_config(str(path))))
    assert (promised.linear, promised.experts, promised.tied) == (real.linear, real.experts, real.tied)
    assert sorted(promised.others) == sorted(real.others)


def test_a_mixture_s_linear_modules_are_attention_s_and_its_experts_are_reached_by_name(mixture: Path) -> None:
    parts = targets.parts_of(facts_of(mixture))
    method = method_of(target_parameters=EXPERTS)
    assert {name.rpartition(".")[2] for name in targets.adapted_modules(parts, method)} == set(targets.ATTENTION)
    assert len(targets.adapted_parameters(parts, method)) == 4
    assert targets.adapted_parameters(parts, method_of()) == []


def test_of_a_mixture_with_dense_layers_attention_alone_is_linear(mixture: Path) -> None:
    facts = facts_of(mixture)
    assert facts.experts is not None
    partly_dense = facts.model_copy(update={"experts": facts.experts.model_copy(update={"dense_layers": (1,)})})
    parts = targets.parts_of(partly_dense)
    assert "model.layers.1.mlp.gate_proj" in parts.linear
    assert {name.rpartition(".")[2] for name in targets.adapted_modules(parts, method_of())} == set(targets.ATTENTION)
    with pytest.raises(targets.TargetError, match="gate_proj is no linear module of the model; allowed are k_proj"):
        targets.check(parts, method_of(targets=("gate_proj",)))


def test_modules_to_save_are_ends_of_names_as_for_peft(model: Path) -> None:
    parts = targets.parts_of(facts_of(model))
    assert len(targets.saved_modules(parts, method_of(modules_to_save=("norm",)))) == 4 * 4 + 1
    assert targets.saved_modules(parts, method_of(modules_to_save=("model.norm",))) == ["model.norm"]


def test_four_bits_are_for_the_products_of_the_layers_alone(mixture: Path) -> None:
    parts = targets.parts_of(facts_of(mixture))
    kinds = {name.rpartition(".")[2] for name in targets.quantised(parts, QloraMethod(**LORA | {"type": "QLoRA"}))}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "typo": ("model", {"targets": ("q_porj",)}, "TargetNotFound", "targets: q_porj is no linear module of the model; "
             "allowed are down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj, or all-linear alone; "
             "did you mean q_proj?"),
    "all and one": ("model", {"targets": ("all-linear", "q_proj")}, "TargetNotFound", "all-linear stands alone"),
    "experts as modules": ("mixture", {"targets": ("q_proj", "gate_proj")}, "TargetNotFound",
                           "experts are reached by targetParameters: experts.down_proj, experts.gate_up_proj"),
    "no experts": ("model", {"target_parameters": EXPERTS}, "TargetNotFound",
                   "experts.gate_up_proj is no parameter of all experts of the model; it has none"),
    "experts' typo": ("mixture", {"target_parameters": ("experts.up_proj",)}, "TargetNotFound",
                      "allowed are experts.down_proj, experts.gate_up_proj"),
    "rank of none": ("model", {"targets": ("q_proj",), "rank_pattern": {"v_proj": 2}}, "TargetNotFound",
                     "rankPattern: v_proj is no module with an adapter of the model; allowed are q_proj"),
    "alpha of none": ("model", {"targets": ("q_proj",), "alpha_pattern": {"layers.9.self_attn.q_proj": 2}},
                      "TargetNotFound", "alphaPattern: layers.9.self_attn.q_proj is no"),
    "saved typo": ("model", {"modules_to_save": ("nrom",)}, "TargetNotFound",
                   "modulesToSave: nrom is no module with weights of the model; allowed are"),
    "both": ("model", {"targets": ("q_proj",), "modules_to_save": ("q_proj",)}, "TargetTwice",
             "model.layers.0.self_attn.q_proj has an adapter as well"),
    "tied target": ("model", {"targets": ("lm_head",)}, "TargetTied", "lm_head shares its weight"),
    "tied head": ("model", {"modules_to_save": ("lm_head",)}, "TargetTied", "are one weight in this model"),
    "tied embedding": ("model", {"modules_to_save": ("embed_tokens",)}, "TargetTied", "are one weight in this model"),
    "blocks": ("model", {"type": "QLoRA", "quantization": {"block_size": 128}}, "BlockSizeDoesNotFit",
               "blockSize: 128 does not divide the 64 inputs of model.layers.0.self_attn.q_proj; take 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_with_what_could(case: str, request: pytest.FixtureRequest) -> None:
    folder, changes, reason, said = REFUSED[case]
    path = request.getfixturevalue(folder)
    with pytest.raises(targets.TargetError) as caught:
        targets.check(targets.parts_of(facts_of(path)), method_of(**changes))
    assert caught.value.reason == reason
    assert said in str(caught.value)


def test_the_trainer_refuses_what_the_preparation_refuses(model: Path) -> None:
    with pytest.raises(UserError) as caught:
        lora.apply(skeleton(load_config(str(model))), method_of(modules_to_save=("lm_head",)), base_name="tiny")
    assert caught.value.failure.reason == "TargetTied"


def test_heads_of_their_own_may_be_adapted_and_saved(mixture: Path) -> None:
    parts = targets.parts_of(facts_of(mixture))
    targets.check(parts, method_of(targets=("q_proj", "lm_head")))
    targets.check(parts, method_of(modules_to_save=("lm_head", "embed_tokens")))
