"""A mixture's experts: read from either layout, computed all at once as one by one, their load counted and reported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune_contract import ExitCode
from finetune_trainer import expert_layout, experts
from finetune_trainer.distributed import World
from finetune_trainer.measuring.expert_load import load_of
from finetune_trainer.model import WeightFiles
from multiproc.cases import FULL, config, losses, train
from support.adapted import EXPERTS, LORA, adapted, logits, method_of, plain

FUSED = "model.layers.1.mlp.experts.gate_up_proj"


def test_files_with_a_matrix_for_each_expert_are_read_as_one_tensor(mixture: Path) -> None:
    files, whole = WeightFiles(mixture), dict(plain(mixture).named_parameters())
    assert not any(expert_layout.is_fused(name) for name in files.names), "as on the hubs"
    for name in (FUSED, FUSED.replace("gate_up", "down")):
        assert files.shape(name) == tuple(whole[name].shape)
        for rows in (slice(None), slice(2, 5), slice(7, 12), slice(8, 8)):
            assert torch.equal(files.read(name, rows), whole[name][rows])
    assert files.dtype(FUSED) is torch.float32


def test_files_with_one_tensor_for_all_experts_are_read_as_they_are(mixture: Path, tmp_path: Path) -> None:
    tensors = dict(plain(mixture).state_dict())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    files = WeightFiles(tmp_path)
    assert FUSED in files.names
    assert torch.equal(files.read(FUSED, slice(1, 3)), tensors[FUSED][1:3])


def test_names_lead_from_one_layout_to_the_other_and_back() -> None:
    for part, name in enumerate(expert_layout.single_names(FUSED, 5)):
        assert expert_layout.place_of(name) == expert_layout.Place(FUSED, 5, part, 2)
    assert expert_layout.place_of("model.layers.1.mlp.gate_proj.weight") is None
    assert not expert_layout.is_fused("model.layers.1.mlp.down_proj")


@pytest.mark.parametrize("rank", [3, 8])
def test_all_at_once_is_as_one_by_one(mixture: Path, rank: int) -> None:
    model = adapted(mixture, method_of(target_parameters=EXPERTS, rank=rank)).stir().model
    (group, *_), generator = experts.modules(model), torch.Generator().manual_seed(2)
    hidden, weights = (torch.randn(9, size, generator=generator) for size in (64, 2))
    chosen = torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(9)])
    chosen[chosen == 6] = 1  # an expert that nobody asks, and one that all of a token's choices may be
    found = experts.go_through(group.train(False), hidden, chosen, weights)
    assert torch.allclose(found, _one_by_one(group, hidden, chosen, weights), atol=1e-5)


@torch.no_grad()
def _one_by_one(group: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    result = torch.zeros_like(hidden)
    for token, row in enumerate(hidden):
        for place, expert in enumerate(chosen[token].tolist()):
            gate, up = (_whole(group, "gate_up_proj", expert) @ row).chunk(2)
            inner = torch.nn.functional.silu(gate) * up
            result[token] += weights[token, place] * (_whole(group, "down_proj", expert) @ inner)
    return result


def _whole(group: Any, name: str, expert: int) -> Tensor:
    a, b, factor = group.adapters[name]()
    whole: Tensor = getattr(group, name)[expert] + factor * b[expert] @ a[expert]
    return whole


def test_the_loop_over_experts_is_never_asked(mixture: Path) -> None:
    model = adapted(mixture, method_of()).model
    assert model.config._experts_implementation == experts.EXPERTS


def test_nothing_in_it_waits_for_the_device(mixture: Path) -> None:
    model = adapted(mixture, method_of(target_parameters=EXPERTS)).model.train().bfloat16()
    group: Any = experts.modules(model)[0]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:  # raises where a number of the device is asked for
        group.load_X = fake.from_tensor(group.load_X)
        hidden, weights = (fake.from_tensor(torch.randn(9, size).bfloat16()) for size in (64, 2))
        experts.go_through(group, hidden, fake.from_tensor(torch.zeros(9, 2, dtype=torch.int64)), weights)


def test_the_load_is_counted_in_training_alone_and_taken_once(mixture: Path) -> None:
    model = adapted(mixture, method_of()).model
    logits(model)
    assert load_since(model).sum() == 0
    chosen: list[Tensor] = []
    for module in model.modules():
        if type(module).__name__ == "Qwen3MoeTopKRouter":
            module.register_forward_hook(lambda _, __, output: chosen.append(output[2]))
    model.train()(input_ids=torch.arange(40, 60)[None], use_cache=False)
    load = load_since(model)
    assert load.tolist() == [torch.bincount(each.flatten(), minlength=8).tolist() for each in chosen]
    assert load.sum(1).tolist() == [40, 40]
    assert load_since(model).sum() == 0


def load_since(model: Any) -> Tensor:
    """Of a mixture, since the last call."""
    load = experts.take_load(model)
    assert load is not None
    return load


def test_a_dense_model_has_no_load(model: Path) -> None:
    assert experts.take_load(adapted(model, method_of()).model) is None


def test_the_load_says_how_far_from_even_it_is(alone: World) -> None:
    load = load_of(torch.tensor([[10, 10, 10, 10], [30, 5, 5, 0]]), alone)
    assert load.shares[1] == (0.75, 0.125, 0.125, 0.0)
    assert (load.imbalance, load.busiest, load.idle) == (3.0, (1, 0), 1)
    assert str(load) == "the busiest expert got 3.0 times an even share (layer 1, expert 0); 1 of 8 got nothing"


@pytest.mark.parametrize("method", [LORA | {"target_parameters": EXPERTS}, FULL], ids=["LoRA", "Full"])
def test_a_run_leaves_what_plain_transformers_opens_and_tells_the_load(
    tmp_path: Path, mixture: Path, tokens: Path, alone: World, method: dict[str, Any]
) -> None:
    is_full = method["type"] == "Full"
    outcome = train(alone, config(tmp_path, mixture, tokens, method=method, merge_adapter=not is_full, max_steps=3))
    assert outcome.exit_code is ExitCode.DONE
    made = tmp_path / ("model" if is_full else "merged")
    before, after = WeightFiles(mixture), WeightFiles(made)
    assert sorted(after.names) == sorted(before.names), "the hubs' layout"
    assert (logits(plain(made)) - logits(plain(mixture))).abs().max() > 1e-3, "training has moved the model"
    router = "model.layers.0.mlp.gate.weight"
    assert torch.equal(before.read(router), after.read(router)), "routers are frozen"
    (line,) = map(json.loads, (tmp_path / "attempts" / "1" / "experts.jsonl").read_text().splitlines())
    assert line["step"] == 3
    assert [sum(layer) for layer in line["shares"]] == pytest.approx([1, 1], abs=1e-4)


def test_recomputing_a_mixture_s_activations_leaves_losses_as_they_are(
    tmp_path: Path, mixture: Path, tokens: Path, alone: World
) -> None:
    for name in ("None", "Full"):
        method = LORA | {"target_parameters": EXPERTS}
        run = config(tmp_path / name, mixture, tokens, method=method, max_steps=2, activation_checkpointing=name)
        train(alone, run)
    assert losses(tmp_path / "None") == losses(tmp_path / "Full")
    shares = [json.loads((tmp_path / name / "attempts/1/experts.jsonl").read_text()) for name in ("None", "Full")]
    assert shares[0] == shares[1]


def test_half_precision_computes_experts_in_half_precision(
    tmp_path: Path, mixture: Path, tokens: Path, alone: World
) -> None:
    for precision in ("Fp32", "Bf16"):
        method = LORA | {"target_parameters": EXPERTS}
        run = config(tmp_path / precision, mixture, tokens, method=method, max_steps=3, precision=precision)
        train(alone, run)
    assert losses(tmp_path / "Bf16") == pytest.approx(losses(tmp_path / "Fp32"), rel=2e-2)
    assert losses(tmp_path / "Bf16") != losses(tmp_path / "Fp32")


def test_the_tiny_mixture_is_in_the_hubs_layout(mixture: Path) -> None:
    names = set(load_file(mixture / "model.safetensors"))
    assert "model.layers.0.mlp.experts.7.gate_proj.weight" in names
