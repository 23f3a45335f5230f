"""The counted operations are those that torch carries out."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from finetune_contract import FullMethod, LoraMethod
from finetune_trainer.data.batch import MicroBatch
from finetune_trainer.loss import summed_loss
from finetune_trainer.measuring.flops import Flops, Work, count
from finetune_trainer.measuring.hardware import peak_flops
from finetune_trainer.methods import full, lora
from finetune_trainer.model import WeightFiles, load_config, materialise, recompute_activations, skeleton

CPU = torch.device("cpu")
OFFSETS = (0, 7, 30, 41)
TOKENS, SUPERVISED = OFFSETS[-1], 12
WORK = Work(
    tokens=TOKENS,
    supervised_tokens=SUPERVISED,
    squared_lengths=sum((end - begin) ** 2 for begin, end in pairwise(OFFSETS)),
)


def micro_batch() -> MicroBatch:
    lengths = [end - begin for begin, end in pairwise(OFFSETS)]
    return MicroBatch(
        input_ids_1T=torch.arange(TOKENS)[None] + 5,
        position_ids_1T=torch.cat([torch.arange(length) for length in lengths])[None],
        document_offsets=OFFSETS,
        longest_document=max(lengths),
        supervised_S=torch.arange(SUPERVISED),
        targets_S=torch.arange(SUPERVISED) + 6,
    )


def carried_out(model: nn.Module) -> dict[str, int]:
    """Operations of one forward and backward pass by operator, as torch's own counter sees them."""
    # written out as products, attention is counted too
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        summed_loss(model, micro_batch(), CPU).backward()  # type: ignore[no-untyped-call]
    counts: dict[Any, int] = counter.get_flop_counts()["Global"]
    return {str(operator): flops for operator, flops in counts.items()}


def products(counts: dict[str, int]) -> int:
    return counts["aten.mm"]


def attention(counts: dict[str, int]) -> int:
    """Half of what torch counts: it does not know that the product is causal."""
    return counts["aten.bmm"] // 2


def expected_products(flops: Flops) -> int:
    return (flops.layers_forward + flops.layers_backward) * TOKENS + flops.head * SUPERVISED


def test_full_fine_tuning_costs_six_operations_a_weight(model: Path) -> None:
    made = full.apply(skeleton(load_config(str(model))), FullMethod(), base_name="tiny").train()
    materialise(made, full.initial_values(FullMethod(), WeightFiles(model), seed=3), CPU)
    flops, counted = count(made, recomputes=False), carried_out(made)
    assert products(counted) == expected_products(flops)
    assert attention(counted) == 3 * flops.attention_forward * WORK.squared_lengths
    assert products(counted) + attention(counted) == flops.of_model(WORK)
    weights = sum(each.weight.numel() for each in made.modules() if isinstance(each, nn.Linear)) - head_of(made)
    assert flops.layers_forward + flops.layers_backward == 6 * weights
    assert flops.head == 6 * head_of(made)


def test_a_frozen_base_costs_four_operations_a_weight_and_its_adapters_six(model: Path) -> None:
    method = LoraMethod(rank=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj", "down_proj"))
    made = lora.apply(skeleton(load_config(str(model))), method, base_name="tiny").train()
    materialise(made, lora.initial_values(method, WeightFiles(model), seed=3), CPU)
    flops, counted = count(made, recomputes=False), carried_out(made)
    # nothing is trained below the first layer, so its first products have no gradient of their input
    spared = 2 * TOKENS * sum(first_weights(made))
    assert products(counted) == expected_products(flops) - spared
    assert spared < 0.2 * products(counted)  # of two layers; of 36 it is little
    trained = sum(each.numel() for each in made.parameters() if each.requires_grad)
    frozen = sum(each.weight.numel() for each in made.modules() if is_frozen_linear(each)) - head_of(made)
    assert flops.layers_forward + flops.layers_backward == 4 * frozen + 6 * trained
    assert flops.head == 4 * head_of(made)


def first_weights(made: nn.Module) -> list[int]:
    """Of the products that read the embedding alone: q, k and v of the first layer, and their A matrices."""
    return [
        module.weight.numel()
        for path, module in made.named_modules()
        if isinstance(module, nn.Linear)
        and "layers.0.self_attn" in path
        and "o_proj" not in path
        and "lora_B" not in path
    ]


def is_frozen_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and not module.weight.requires_grad


def head_of(made: nn.Module) -> int:
    head = next(module for path, module in made.named_modules() if path.endswith("lm_head"))
    assert isinstance(head, nn.Linear)
    return head.weight.numel()


def test_recomputation_counts_for_the_hardware_alone(model: Path) -> None:
    made = skeleton(load_config(str(model)))
    recompute_activations(made)
    made = full.apply(made, FullMethod(), base_name="tiny").train()
    materialise(made, full.initial_values(FullMethod(), WeightFiles(model), seed=3), CPU)
    flops, counted = count(made, recomputes=True), carried_out(made)
    again = flops.layers_forward * TOKENS
    # torch stops when it has what the backward pass needs, and that is never a layer's last product
    last = [each for path, each in made.named_modules() if path.endswith("down_proj")]
    spared = 2 * TOKENS * sum(each.weight.numel() for each in last if isinstance(each, nn.Linear))
    assert spared
    assert products(counted) == expected_products(flops) + again - spared
    assert attention(counted) == 4 * flops.attention_forward * WORK.squared_lengths
    assert products(counted) + attention(counted) == flops.of_hardware(WORK) - spared
    assert flops.of_hardware(WORK) - flops.of_model(WORK) == again + flops.attention_forward * WORK.squared_lengths
    plain = count(made, recomputes=False)
    assert plain.of_hardware(WORK) == plain.of_model(WORK) == flops.of_model(WORK)


def test_attention_costs_six_operations_a_pair_and_width() -> None:
    flops = Flops(layers_forward=0, layers_backward=0, head=0, attention_forward=2, recomputes=False)
    assert flops.of_model(Work(tokens=10, supervised_tokens=5, squared_lengths=100)) == 600


def test_of_the_experts_only_those_count_that_a_token_is_sent_to() -> None:
    def per_token(experts: int) -> Flops:
        config = Qwen3MoeConfig(
            hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=64, num_experts=experts, num_experts_per_tok=2,
        )  # fmt: skip
        config.head_dim = 8
        with torch.device("meta"):
            return count(Qwen3MoeForCausalLM(config), recomputes=False)

    few, many = per_token(4), per_token(8)
    routers = 2 * 2 * 4 * 32  # forward operations of the four more experts' rows in two layers' routers
    assert many.layers_forward - few.layers_forward == routers
    experts = 2 * 2 * (2 * 3 * 32 * 16)  # forward, two layers, two experts of three matrices
    attention = 2 * 2 * 32 * (32 + 16 + 16 + 32)
    assert few.layers_forward == experts + attention + routers


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_device_is_known_by_its_whole_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
