"""A base in four bits: what bitsandbytes holds, and adapters on it as plain transformers and PEFT have them."""

import re
import shutil
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import nn
from transformers import BitsAndBytesConfig

from finetune_contract import ExitCode, QloraMethod
from finetune_trainer import methods, nf4
from finetune_trainer.distributed import World
from finetune_trainer.measuring.flops import count
from finetune_trainer.methods import lora, qlora
from finetune_trainer.model import WeightFiles, load_config, skeleton
from multiproc.cases import config, losses, train
from support.adapted import EXPERTS, LORA, adapted, gradients, in_plain_peft, logits, method_of, plain

QLORA: dict[str, Any] = LORA | {"type": "QLoRA"}
CPU = torch.device("cpu")


def four_bits(*, double: bool = True) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip


@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bytes_are_bitsandbytes_own_and_so_is_what_is_made_of_them(
    block_size: int, double: bool, dtype: torch.dtype
) -> None:
    weight = torch.randn(96, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    layout = nf4.Layout((96, 256), block_size, double)
    packed, state = quantize_4bit(weight, blocksize=block_size, compress_statistics=double, quant_type="nf4")
    parts = nf4.stored(weight, layout)
    assert torch.equal(parts.packed.flatten(), packed.flatten())
    assert torch.equal(nf4.whole(parts, layout, dtype), dequantize_4bit(packed, state))
    assert [None if part is None else part.shape for part in parts] == [
        None if part is None else part.shape for part in nf4.empty(layout)
    ]


@pytest.mark.parametrize("double", [True, False])
def test_a_product_in_four_bits_is_that_of_the_whole_weight_and_so_is_its_gradient(double: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(96, 128, generator=generator), torch.randn(7, 128, generator=generator)
    layout = nf4.Layout((96, 128), 64, double)
    parts = nf4.stored(weight, layout)
    x.requires_grad_(True)
    direction = torch.randn(7, 96, generator=generator)
    made = nf4.product(x, parts, layout)
    (found,) = torch.autograd.grad((made * direction).sum(), x)
    expected = nn.functional.linear(x, nf4.whole(parts, layout, torch.float32))
    assert torch.allclose(made, expected, atol=1e-6)
    assert torch.allclose(found, torch.autograd.grad((expected * direction).sum(), x)[0], atol=1e-6)


def test_a_product_keeps_bytes_for_the_backward_pass_and_no_weight(model: Path) -> None:
    layer = nf4_layer(model)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(5, 64, requires_grad=True))
    assert {tensor.dtype for tensor in kept} == {torch.uint8}


def test_a_product_follows_autocast(model: Path) -> None:
    layer = nf4_layer(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(5, 64)).dtype is torch.bfloat16
    assert layer(torch.randn(5, 64)).dtype is torch.float32


def nf4_layer(model: Path) -> Any:
    """A frozen projection of the tiny model in four bits."""
    made = adapted(model, method_of(type="QLoRA")).model
    return next(module for module in made.modules() if isinstance(module, nf4.Nf4Linear))


def test_scales_may_begin_at_any_byte() -> None:
    layout = nf4.Layout((8, 64), 64, False)
    packed, scales, _ = nf4.stored(torch.randn(8, 64), layout)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), scales.flatten()])[1:].view(scales.shape)
    assert shifted.storage_offset() == 1
    moved = nf4.whole(nf4.Stored(packed, shifted, None), layout, torch.float32)
    assert torch.equal(moved, nf4.whole(nf4.Stored(packed, scales, None), layout, torch.float32))


@pytest.mark.parametrize(("double", "changes"), [(True, {}), (False, {}), (True, {"use_dora": True})])
def test_it_is_the_model_that_transformers_bitsandbytes_and_peft_make(
    model: Path, tmp_path: Path, double: bool, changes: dict[str, Any]
) -> None:
    method = method_of(type="QLoRA", quantization={"double_quantization": double}, **changes)
    made = adapted(model, method)
    options = {"quantization_config": four_bits(double=double)}
    assert (logits(made.model) - logits(plain(model, **options))).abs().max() < 1e-5, "at step 0"
    made.stir()
    theirs = in_plain_peft(model, made.save_adapter(tmp_path / "adapter"), **options)
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in theirs.modules())
    assert (logits(theirs) - logits(made.model)).abs().max() < 1e-5


@pytest.mark.parametrize("folder", ["model", "mixture"])
def test_merged_it_is_the_base_in_four_bits_with_the_adapter(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    changes = (
        {"target_parameters": EXPERTS} if folder == "mixture" else {"use_dora": True, "modules_to_save": ("norm",)}
    )
    made = adapted(path, method_of(type="QLoRA", **changes)).stir()
    merged = plain(made.save_merged(tmp_path / "merged"))
    assert (logits(merged) - logits(made.model)).abs().max() < 1e-5
    on_the_original = adapted(path, method_of(**changes)).stir()
    assert (logits(merged) - logits(on_the_original.model)).abs().max() > 1e-3, "four bits are not sixteen"


def test_everything_learns(mixture: Path) -> None:
    made = adapted(mixture, method_of(type="QLoRA", target_parameters=EXPERTS))
    norms = gradients(made.model)
    assert norms.keys() == made.trained.keys()
    lora.check_gradients(norms)


def test_any_rows_of_the_bytes_are_those_of_the_whole(mixture: Path) -> None:
    method = QloraMethod.model_validate(QLORA | {"target_parameters": EXPERTS})
    source = qlora.initial_values(method, WeightFiles(mixture), seed=3)
    model = qlora.apply(skeleton(load_config(str(mixture))), method, base_name="tiny")
    names = [name for name, parameter in model.named_parameters() if parameter.dtype is torch.uint8]
    assert sum(name.endswith("_scales_of_scales") for name in names) == len(names) / 3 == 2 * (4 + 2)
    for name in names:
        whole = source(name, slice(None))
        assert whole.shape == model.get_parameter(name).shape
        assert torch.equal(source(name, slice(1, 3)), whole[1:3])


def test_a_base_is_never_whole_in_memory_and_embedding_head_norms_and_routers_stay(mixture: Path) -> None:
    made = adapted(mixture, method_of(type="QLoRA")).model
    kept = {name for name, each in made.named_parameters() if each.dtype is not torch.uint8 and "lora" not in name}
    assert {re.sub(r".*layers\.\d+\.", "", name) for name in kept} == {
        "base_model.model.model.embed_tokens.weight", "base_model.model.model.norm.weight",
        "base_model.model.lm_head.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight",
        "input_layernorm.weight", "post_attention_layernorm.weight", "mlp.gate.weight",
    }  # fmt: skip


@pytest.mark.parametrize("folder", ["model", "mixture"])
def test_operations_are_counted_of_weights_and_not_of_bytes(folder: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(folder)
    counted = [
        count(
            methods.chosen(method).apply(skeleton(load_config(str(path))), method, base_name="tiny"), recomputes=False
        )
        for method in (method_of(), method_of(type="QLoRA"))
    ]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("precision", ["Fp32", "Bf16"])
def test_a_run_on_four_bits_learns_as_on_sixteen_and_leaves_what_it_trained(
    tmp_path: Path, model: Path, tokens: Path, alone: World, precision: str
) -> None:
    for name, method in (("lora", LORA), ("qlora", QLORA)):
        run = config(
            tmp_path / name, model, tokens, method=method, max_steps=3, precision=precision, merge_adapter=True
        )
        assert train(alone, run).exit_code is ExitCode.DONE
    assert losses(tmp_path / "qlora") == pytest.approx(losses(tmp_path / "lora"), rel=5e-2)
    assert losses(tmp_path / "qlora") != losses(tmp_path / "lora")


def test_a_run_on_four_bits_goes_on_exactly(tmp_path: Path, model: Path, tokens: Path, alone: World) -> None:
    once = config(tmp_path / "once", model, tokens, method=QLORA, max_steps=4, checkpoint={"every_steps": 2, "keep": 9})
    train(alone, once)
    twice = config(tmp_path / "once", model, tokens, method=QLORA, max_steps=4, attempt=2)
    shutil.rmtree(tmp_path / "once" / "checkpoints" / "step-00000004")
    train(alone, twice)
    straight = {step: loss for step, loss in losses(tmp_path / "once").items() if step > 2}
    assert losses(tmp_path / "once", attempt=2) == straight
