"""A micro-batch gives what transformers gives for each of its documents; only supervised positions reach the head."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune_trainer.data.batch import MicroBatch
from finetune_trainer.loss import summed_loss, supervised_logits
from finetune_trainer.model import WeightFiles, load_config, materialise, recompute_activations, skeleton

CPU = torch.device("cpu")
LENGTHS = (5, 1, 9, 4)


@pytest.fixture(scope="module")
def qwen3(model: Path) -> PreTrainedModel:
    """The tiny model, as the trainer builds it."""
    made = skeleton(load_config(str(model)))
    materialise(made, WeightFiles(model).read, CPU)
    made.train()
    return made


def packed(ids: torch.Tensor, supervised: torch.Tensor) -> MicroBatch:
    """Documents of LENGTHS in one row."""
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    return MicroBatch(
        input_ids_1T=ids[None], position_ids_1T=torch.cat([torch.arange(n) for n in LENGTHS])[None],
        document_offsets=(0, *ends), longest_document=max(LENGTHS), supervised_S=supervised,
        targets_S=torch.zeros_like(supervised),
    )  # fmt: skip


@torch.no_grad()
def test_a_packed_document_gives_the_logits_it_gives_alone(qwen3: PreTrainedModel, model: Path) -> None:
    ids = torch.arange(100, 100 + sum(LENGTHS))
    together = supervised_logits(qwen3, packed(ids, torch.arange(sum(LENGTHS))), CPU)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    begin = 0
    for length in LENGTHS:
        alone = plain(input_ids=ids[None, begin : begin + length]).logits[0]
        torch.testing.assert_close(together[begin : begin + length], alone, rtol=1e-5, atol=1e-5)
        begin += length


def test_a_micro_batch_without_supervision_takes_part_with_zero_gradients(qwen3: PreTrainedModel) -> None:
    ids = torch.arange(sum(LENGTHS))
    loss = summed_loss(qwen3, packed(ids, torch.zeros(0, dtype=torch.int64)), CPU)
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert all(each.grad is not None and not each.grad.any() for each in qwen3.parameters())
    qwen3.zero_grad()


def test_recomputing_activations_changes_nothing(model: Path) -> None:
    micro = packed(torch.arange(7, 7 + sum(LENGTHS)), torch.tensor([0, 3, 8, 16]))
    gradients = []
    for recompute in (False, True):
        made = skeleton(load_config(str(model)))
        if recompute:
            recompute_activations(made)
        materialise(made, WeightFiles(model).read, CPU)
        made.train()
        torch.autograd.backward(summed_loss(made, micro, CPU))
        gradients.append({name: each.grad for name, each in made.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
