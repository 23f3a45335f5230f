"""Attention of documents side by side, against the formula with a mask; values and gradients.

Shape letters: T tokens, H query heads, K key/value heads, D width of a head.
"""
# ruff: noqa: N806 - tensors carry shape letters

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from finetune_trainer.attention import Documents, attend
from support.devices import IDS, WAYS

LENGTHS = (5, 1, 17, 64, 3)


def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Documents]:
    """Random query, key and value of grouped heads (four for two), and documents of LENGTHS."""
    generator = torch.Generator().manual_seed(5)
    query, key, value = (
        torch.randn(1, heads, sum(LENGTHS), 32, generator=generator).to(device, dtype) for heads in (4, 2, 2)
    )
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    offsets = (0, *ends)
    return query, key, value, Documents(offsets, torch.tensor(offsets, dtype=torch.int32, device=device), max(LENGTHS))


def attended(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    return attend(torch.nn.Module(), query, key, value, None, scaling=32**-0.5, documents=documents)[0]


@pytest.mark.parametrize(("device", "dtype"), WAYS, ids=IDS)
def test_attention_is_the_softmax_over_earlier_tokens_of_the_same_document(device: str, dtype: torch.dtype) -> None:
    query, key, value, documents = inputs(device, dtype)
    found_THD = attended(query, key, value, documents)[0].double().cpu()
    query_HTD, key_HTD, value_HTD = (
        each[0].double().cpu().repeat_interleave(4 // each.shape[1], dim=0) for each in (query, key, value)
    )
    number_T = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    hidden_TT = (number_T[:, None] != number_T[None]) | ~torch.ones(len(number_T), len(number_T)).tril().bool()
    scores_HTT = (query_HTD @ key_HTD.transpose(1, 2) * 32**-0.5).masked_fill(hidden_TT, -torch.inf)
    expected_THD = (scores_HTT.softmax(dim=-1) @ value_HTD).transpose(0, 1)
    # bf16 keeps 8 bits of a result of size 1, fp16 11, fp32 24
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(found_THD, expected_THD, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("device", "dtype"), WAYS, ids=IDS)
def test_attention_passes_no_gradient_to_another_document(device: str, dtype: torch.dtype) -> None:
    *tensors, documents = inputs(device, dtype)
    query, key, value = (each.requires_grad_() for each in tensors)
    for begin, end in pairwise(documents.offsets):
        loss = attended(query, key, value, documents)[:, begin:end].float().square().sum()
        reached = [
            set((gradient.abs().sum(dim=(0, 1, 3)) > 0).nonzero().flatten().tolist())
            for gradient in torch.autograd.grad(loss, tensors)
        ]
        inside = set(range(begin, end))
        assert [each <= inside for each in reached] == [True, True, True]
        assert reached[2] == inside, "every value takes part"
