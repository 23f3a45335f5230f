"""What an adapter is before, during and after training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3Config

from finetune_contract import ExitCode, LoraMethod
from finetune_trainer.distributed import World
from finetune_trainer.failures import NotANumberError, UserError, failure_of
from finetune_trainer.methods import lora
from finetune_trainer.model import WeightFiles, load_config, materialise, skeleton
from multiproc.cases import FULL, LORA, config, losses, train, trained_tensors

CPU = torch.device("cpu")
IDS = torch.arange(40, 60)[None]


def adapted(model: Path, **changes: Any) -> torch.nn.Module:
    """The tiny model with fresh adapters."""
    method = LoraMethod.model_validate(LORA | changes)
    made = lora.apply(skeleton(load_config(str(model))), method, base_name="tiny")
    materialise(made, lora.initial_values(method, WeightFiles(model), seed=3), CPU)
    return made


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of one document, without the trainer's own attention arguments."""
    config = model.train(False).config
    assert isinstance(config, Qwen3Config)
    config._attn_implementation = "sdpa"
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def test_an_adapter_at_step_0_is_the_base(model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert torch.equal(logits(adapted(model)), logits(base))


def test_fresh_adapters_depend_on_seed_and_name_alone(model: Path) -> None:
    source = lora.initial_values(LoraMethod.model_validate(LORA), WeightFiles(model), seed=3)
    first, second = (f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_A.default.weight" for n in (0, 1))
    assert torch.equal(source(first, slice(1, 3)), source(first, slice(None))[1:3])
    assert not torch.equal(source(first, slice(None)), source(second, slice(None)))


@pytest.mark.parametrize(
    ("targets", "reason"), [(["q_porj"], "TargetNotFound"), (["lm_head"], "TargetTied")], ids=["typo", "tied head"]
)
def test_impossible_targets_are_refused(model: Path, targets: list[str], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        adapted(model, targets=targets)
    assert caught.value.failure.reason == reason


def test_all_linear_is_every_projection_but_the_head(model: Path) -> None:
    names = {name for name, each in adapted(model, targets=["all-linear"]).named_parameters() if each.requires_grad}
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_an_adapter_without_a_gradient_stops_the_run() -> None:
    norms = {"x.lora_A.default.weight": torch.tensor(0.0), "x.lora_B.default.weight": torch.tensor(0.0)}
    with pytest.raises(UserError, match="1 of 1 adapters got no finite, non-zero gradient"):
        lora.check_gradients(norms)


def test_merged_and_adapter_and_training_agree(tmp_path: Path, model: Path, tokens: Path, alone: World) -> None:
    run = config(tmp_path, model, tokens, merge_adapter=True, max_steps=4)
    outcome = train(alone, run)
    assert outcome.exit_code is ExitCode.DONE
    assert outcome.result is not None
    assert [artifact.kind for artifact in outcome.result.artifacts] == ["Adapter", "MergedModel"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found, unchanged = logits(merged), logits(base)
    in_peft = logits(PeftModel.from_pretrained(base, str(tmp_path / "adapter")).get_base_model())
    assert (found - in_peft).abs().max() < 1e-4
    assert (found - unchanged).abs().max() > 1e-2, "training has moved the model"


def test_a_full_model_is_written_in_the_base_s_dtypes(tmp_path: Path, model: Path, tokens: Path, alone: World) -> None:
    outcome = train(alone, config(tmp_path, model, tokens, method=FULL, max_steps=2))
    assert outcome.exit_code is ExitCode.DONE
    base, made = WeightFiles(model), WeightFiles(tmp_path / "model")
    assert sorted(made.names) == sorted(base.names)
    assert {made.dtype(name) for name in made.names} == {base.dtype(name) for name in base.names}
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    assert "test-0" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("precision", ["Bf16", "Fp16"])
@pytest.mark.parametrize("method", [LORA, FULL], ids=["LoRA", "Full"])
def test_half_precision_learns_and_keeps_fp32_masters(
    tmp_path: Path, model: Path, tokens: Path, alone: World, precision: str, method: dict[str, Any]
) -> None:
    full = train(alone, config(tmp_path / "fp32", model, tokens, method=method, max_steps=3))
    half = train(alone, config(tmp_path / "half", model, tokens, method=method, max_steps=3, precision=precision))
    assert full.exit_code is half.exit_code is ExitCode.DONE
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "fp32"), rel=2e-2)
    assert {tensor.dtype for tensor in trained_tensors(tmp_path / "half", 3).values()} == {torch.float32}


def test_recomputing_activations_leaves_losses_as_they_are(
    tmp_path: Path, model: Path, tokens: Path, alone: World
) -> None:
    method = LORA | {"dropout": 0.3}
    for name in ("None", "Full"):
        train(
            alone,
            config(tmp_path / name, model, tokens, method=method, max_steps=3, activation_checkpointing=name),
        )
    assert losses(tmp_path / "None") == losses(tmp_path / "Full")


def test_a_poisoned_model_is_not_trained_on(tmp_path: Path, model: Path, tokens: Path, alone: World) -> None:
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for file in model.iterdir():
        (poisoned / file.name).write_bytes(file.read_bytes())
    tensors = load_file(poisoned / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    from safetensors.torch import save_file

    save_file(tensors, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotANumberError) as caught:
        train(alone, config(tmp_path / "run", poisoned, tokens))
    assert failure_of(caught.value).exit_code is ExitCode.NOT_A_NUMBER
    assert not (tmp_path / "run" / "checkpoints").exists()
