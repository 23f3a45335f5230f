"""Documents that lie side by side do not see one another, and only supervised positions reach the head."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from finetune_trainer.data.batch import MicroBatch
from finetune_trainer.loss import summed_loss, supervised_logits
from finetune_trainer.model import WeightFiles, load_config, materialise, recompute_activations, skeleton

CPU = torch.device("cpu")
LENGTHS = (5, 1, 9, 4)


@pytest.fixture(scope="module")
def qwen3(model: Path) -> Qwen3ForCausalLM:
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
def test_perturbing_a_document_moves_no_logit_of_another(qwen3: Qwen3ForCausalLM) -> None:
    ids = torch.arange(100, 100 + sum(LENGTHS))
    everywhere = torch.arange(sum(LENGTHS))
    before = supervised_logits(qwen3, packed(ids, everywhere), CPU)
    changed = ids.clone()
    changed[6:15] += 300  # the third document
    after = supervised_logits(qwen3, packed(changed, everywhere), CPU)
    others = torch.cat([everywhere[:6], everywhere[15:]])
    assert torch.equal(before[others], after[others])
    assert not torch.allclose(before[6:15], after[6:15])


@torch.no_grad()
def test_a_packed_document_gives_the_logits_it_gives_alone(qwen3: Qwen3ForCausalLM, model: Path) -> None:
    ids = torch.arange(100, 100 + sum(LENGTHS))
    together = supervised_logits(qwen3, packed(ids, torch.arange(sum(LENGTHS))), CPU)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    begin = 0
    for length in LENGTHS:
        alone = plain(input_ids=ids[None, begin : begin + length]).logits[0]
        torch.testing.assert_close(together[begin : begin + length], alone, rtol=1e-5, atol=1e-5)
        begin += length


def test_a_micro_batch_without_supervision_takes_part_with_zero_gradients(qwen3: Qwen3ForCausalLM) -> None:
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
