"""Every kind of adapter against plain PEFT: fresh, moved, saved and reopened, merged."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune_contract import AdapterMethod
from finetune_contract.methods import matching_key
from finetune_trainer.failures import UserError
from finetune_trainer.methods import lora
from finetune_trainer.methods.dora import row_norms
from finetune_trainer.methods.names import adapted as part_of_name
from finetune_trainer.model import load_config, skeleton
from finetune_trainer.targets import ATTENTION
from support.adapted import EXPERTS, adapted, gradients, in_plain_peft, logits, method_of, plain

TOLERANCE = 1e-5
"""Largest difference of a logit in fp32; logits have a standard deviation of about 1."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("model", {}),
    "rsLoRA": ("model", {"use_rslora": True}),
    "DoRA": ("model", {"use_dora": True}),
    "patterns": (
        "model",
        {
            "targets": ("q_proj", "v_proj", "down_proj"),
            "rank_pattern": {"q_proj": 8, "layers.1.mlp.down_proj": 2},
            "alpha_pattern": {"v_proj": 3.0},
            "use_rslora": True,
        },
    ),
    "saved norms": ("model", {"modules_to_save": ("norm",)}),
    "mixture": ("mixture", {}),
    "mixture, experts": ("mixture", {"target_parameters": EXPERTS, "rank_pattern": {"experts.down_proj": 3}}),
    "mixture, one kind of experts": ("mixture", {"targets": (), "target_parameters": EXPERTS[1:], "use_rslora": True}),
    "mixture, saved": ("mixture", {"modules_to_save": ("embed_tokens", "lm_head", "mlp.gate")}),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> tuple[Path, AdapterMethod]:
    """A model folder and a method."""
    fixture, changes = VARIANTS[request.param]
    return request.getfixturevalue(fixture), method_of(**changes)


def test_at_step_0_it_is_the_base_and_everything_in_it_learns(variant: tuple[Path, AdapterMethod]) -> None:
    folder, method = variant
    made = adapted(folder, method)
    assert torch.equal(logits(made.model), logits(plain(folder)))
    norms = gradients(made.model)
    assert norms.keys() == made.trained.keys()
    lora.check_gradients(norms)
    learning = [name for name, norm in norms.items() if norm > 0]
    assert sorted(learning) == sorted(name for name in norms if ".lora_A." not in name)


def test_saved_and_opened_by_peft_alone_and_merged_it_answers_the_same(
    variant: tuple[Path, AdapterMethod], tmp_path: Path
) -> None:
    folder, method = variant
    made = adapted(folder, method).stir()
    expected = logits(made.model)
    assert (expected - logits(plain(folder))).abs().max() > 1e-2, "the adapter moves the model"
    reopened = in_plain_peft(folder, made.save_adapter(tmp_path / "adapter"))
    assert (logits(reopened) - expected).abs().max() < TOLERANCE
    merged = plain(made.save_merged(tmp_path / "merged"))
    assert (logits(merged) - expected).abs().max() < TOLERANCE


def test_what_is_saved_is_what_peft_itself_would_write(variant: tuple[Path, AdapterMethod], tmp_path: Path) -> None:
    folder, method = variant
    ours = adapted(folder, method).save_adapter(tmp_path / "ours")
    is_all = method.targets == ("all-linear",)
    # for a mixture PEFT's own word means the experts and their router as well
    targets = (list(ATTENTION) if folder.name.endswith("moe") else "all-linear") if is_all else list(method.targets)
    settings = LoraConfig(
        r=method.rank, lora_alpha=int(method.alpha), target_modules=targets, task_type="CAUSAL_LM",
        target_parameters=list(method.target_parameters) or None, rank_pattern=dict(method.rank_pattern),
        alpha_pattern=dict(method.alpha_pattern), modules_to_save=list(method.modules_to_save) or None,
        use_rslora=method.use_rslora, use_dora=method.use_dora,
    )  # fmt: skip
    get_peft_model(plain(folder), settings).save_pretrained(tmp_path / "theirs")
    found, expected = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs"))
    for config in (found, expected):
        for field in ("target_modules", "target_parameters", "modules_to_save"):
            config[field] = sorted(config[field] or ())
    assert found == expected
    shapes = [
        {name: tensor.shape for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
        for folder in (ours, tmp_path / "theirs")
    ]
    assert shapes[0] == shapes[1]


def test_each_adapter_of_experts_is_told_its_parameter_as_peft_nests_them(mixture: Path) -> None:
    for chosen in (EXPERTS, EXPERTS[:1], EXPERTS[1:]):
        method = method_of(targets=(), target_parameters=chosen)
        model = lora.apply(skeleton(load_config(str(mixture))), method, base_name="tiny")
        wrappers = {name: module for name, module in model.named_modules() if isinstance(module, ParamWrapper)}
        assert len(wrappers) == 2 * len(chosen)
        for name, wrapper in wrappers.items():
            told = part_of_name(f"{name}.lora_A.default.weight", method)
            assert told.rpartition(".")[2] == wrapper.parameter_name


def test_patterns_match_as_peft_matches_them() -> None:
    keys = ["q_proj", "layers.1.mlp.down_proj", "mlp.up_proj"]
    names = [
        f"model.layers.{n}.{part}" for n in (1, 11) for part in ("self_attn.q_proj", "mlp.down_proj", "mlp.up_proj")
    ]
    assert [matching_key(keys, name) for name in names] == [get_pattern_key(keys, name) for name in names]


def test_dora_starts_at_the_lengths_of_the_base_s_rows(model: Path) -> None:
    made = adapted(model, method_of(use_dora=True))
    base = dict(plain(model).named_parameters())
    magnitudes = {name: value for name, value in made.trained.items() if "magnitude" in name}
    assert len(magnitudes) == 28
    for name, value in magnitudes.items():
        weight = base[f"{part_of_name(name, made.method)}.weight"]
        assert torch.equal(value, torch.linalg.vector_norm(weight, dim=1))


def test_row_norms_are_those_of_the_sum() -> None:
    weight, a, b = (
        torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((9, 16), (3, 16), (9, 3))
    )
    weight[4] = 0
    b[4] = 0
    expected = torch.linalg.vector_norm(weight + 0.7 * b @ a, dim=1)
    assert torch.allclose(row_norms(weight, a, b, 0.7), expected, atol=1e-6)


def test_lora_plus_gives_b_its_own_rate(model: Path) -> None:
    made = adapted(model, method_of(loraplus_lr_ratio=16.0))
    factors = lora.rate_factors(made.model, made.method)
    assert set(factors.values()) == {16.0}
    assert sorted(factors) == sorted(name for name in made.trained if ".lora_B." in name)


def test_the_table_tells_count_shape_rank_scaling_and_share(mixture: Path) -> None:
    method = method_of(target_parameters=EXPERTS, rank_pattern={"q_proj": 8}, modules_to_save=("model.norm",))
    lines = lora.table(adapted(mixture, method).model).splitlines()
    rows = [line.split() for line in lines]
    assert lines[0].startswith("39,488 of ")
    assert ["q_proj", "2", "128", "x", "64", "8", "1", "3,072", "7.8%"] in rows
    assert ["experts.gate_up_proj", "2", "8", "x", "256", "x", "64", "4", "2", "20,480", "51.9%"] in rows
    assert ["norm", "1", "64", "whole", "64", "0.2%"] in rows


@pytest.mark.parametrize("name", ["x.lora_B.default.weight", "x.lora_magnitude_vector.default.weight"])
@pytest.mark.parametrize("norm", [0.0, torch.nan, torch.inf])
def test_an_adapter_that_does_not_learn_stops_the_run(name: str, norm: float) -> None:
    alive: dict[str, Tensor] = {
        "y.lora_B.default.weight": torch.tensor(1.0),
        "x.lora_A.default.weight": torch.zeros(()),
    }
    lora.check_gradients(alive)
    with pytest.raises(UserError, match="1 of 2 adapters got no finite, non-zero gradient"):
        lora.check_gradients(alive | {name: torch.tensor(norm)})


def test_modules_that_are_trained_whole_have_no_second_copy(mixture: Path) -> None:
    made = adapted(mixture, method_of(modules_to_save=("embed_tokens",)))
    tables = [name for name, each in made.model.named_parameters() if each.shape == (1024, 64)]
    assert len(tables) == 2, "embedding and head, and nothing beside them"
    assert isinstance(made.model.get_submodule("base_model.model.model.embed_tokens"), nn.Embedding)
