"""A model on the fast path against the same model on the plain one: losses, gradients, names."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune_trainer.attention import ATTENTION, Documents
from finetune_trainer.kernels import decoder
from finetune_trainer.model import decoder_layers
from support.tiny import tiny_model_dir

TARGETS = {
    "everything": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "two of a merged three": ["q_proj", "v_proj"],
    "the second of a merged two": ["up_proj"],
    "what is never merged": ["o_proj", "down_proj"],
}
OFFSETS = (0, 5, 6, 20, 31)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_dir(tmp_path_factory.mktemp("kernels"), "tiny")


def adapted(folder: Path, targets: list[str]) -> PeftModel:
    base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=ATTENTION
    )
    torch.manual_seed(3)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def gradients(model: PeftModel) -> tuple[float, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 1000, (1, OFFSETS[-1]), generator=generator)
    positions = torch.cat([torch.arange(b - a) for a, b in pairwise(OFFSETS)])[None]
    documents = Documents(OFFSETS, torch.tensor(OFFSETS, dtype=torch.int32), 14)
    logits = model(input_ids=ids, position_ids=positions, documents=documents, use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
    torch.autograd.backward(loss)
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return float(loss.detach()), found


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_losses_and_gradients_are_those_of_the_plain_path(folder: Path, targets: list[str]) -> None:
    model = adapted(folder, targets)
    names = [name for name, _ in model.named_parameters()]
    values = {name: each.detach().clone() for name, each in model.named_parameters()}
    plain_loss, plain = gradients(model)
    for layer in decoder_layers(model):
        decoder.quicken(layer, fp8=False, compiled=False)
    assert [name for name, _ in model.named_parameters()] == names
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, values[name]), name
    fast_loss, fast = gradients(model)
    assert fast_loss == pytest.approx(plain_loss, rel=1e-6)
    assert fast.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_merged_weights_are_held_once(folder: Path) -> None:
    model = adapted(folder, TARGETS["attention"])
    layer: Any = decoder_layers(model)[0]
    decoder.quicken(layer, fp8=False, compiled=False)
    merged = layer.self_attn.merged_in.weight_ED.untyped_storage().data_ptr()
    for name in decoder.ATTENTION_IN:
        projection = getattr(layer.self_attn, name)
        assert projection.base_layer.weight.untyped_storage().data_ptr() == merged
