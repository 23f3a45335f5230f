"""Attention over documents that lie side by side in one row and never see one another.

Shape letters: T tokens of a micro-batch, H query heads, K key/value heads, D width of a head, N documents.

No mask tensor exists. Where documents begin is known on the CPU before the forward pass, so no layer waits for the
device. Registered with transformers' AttentionInterface under the name ATTENTION.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from finetune_trainer.data.batch import MicroBatch

ATTENTION = "documents"


@dataclass(frozen=True, slots=True)
class Documents:
    """Where the documents of a micro-batch begin, in the two forms that the kernels want."""

    offsets: tuple[int, ...]
    offsets_N1: Tensor
    """The same on the device, int32."""
    longest: int


def documents_of(micro: MicroBatch, device: torch.device) -> Documents:
    """Made once per micro-batch and handed to every layer."""
    offsets_N1 = torch.tensor(micro.document_offsets, dtype=torch.int32).to(device, non_blocking=True)
    return Documents(micro.document_offsets, offsets_N1, micro.longest_document)


def attend(
    _module: nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    documents: Documents,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each document; returns [1, T, H, D].

    `**_` takes what transformers passes to every attention function (dropout, sliding_window, position_ids).
    """
    assert attention_mask is None, "documents are separated by their offsets, never by a mask"
    if _has_kernel(value_1KTD):
        return _varlen(query_1HTD, key_1KTD, value_1KTD, documents, scaling), None
    return _document_by_document(query_1HTD, key_1KTD, value_1KTD, documents, scaling), None


def _has_kernel(value: Tensor) -> bool:
    return value.is_cuda and value.dtype in (torch.bfloat16, torch.float16)


def _varlen(query_1HTD: Tensor, key_1KTD: Tensor, value_1KTD: Tensor, documents: Documents, scaling: float) -> Tensor:
    # imported here: torch without CUDA may lack it
    from torch.nn.attention.varlen import varlen_attn

    dtype = value_1KTD.dtype  # under autocast the norms of query and key hand back fp32
    groups = query_1HTD.shape[1] // key_1KTD.shape[1]
    query_THD = query_1HTD[0].transpose(0, 1).to(dtype)
    # repeated rather than `enable_gqa`, which the kernel of torch 2.11 does not offer
    key_THD = key_1KTD[0].transpose(0, 1).to(dtype).repeat_interleave(groups, dim=1)
    value_THD = value_1KTD[0].transpose(0, 1).repeat_interleave(groups, dim=1)
    offsets_N1 = documents.offsets_N1
    attended_THD = varlen_attn(
        query_THD, key_THD, value_THD, offsets_N1, offsets_N1, documents.longest, documents.longest,
        scale=scaling, window_size=(-1, 0),
    )  # fmt: skip
    assert isinstance(attended_THD, Tensor)
    return attended_THD[None]


def _document_by_document(
    query_1HTD: Tensor, key_1KTD: Tensor, value_1KTD: Tensor, documents: Documents, scaling: float
) -> Tensor:
    spans = [slice(*pair) for pair in pairwise(documents.offsets)]
    attended = [
        scaled_dot_product_attention(
            query_1HTD[:, :, span],
            key_1KTD[:, :, span],
            value_1KTD[:, :, span],
            is_causal=True,
            scale=scaling,
            enable_gqa=True,
        )
        for span in spans
    ]
    return torch.cat(attended, dim=2).transpose(1, 2)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, _no_mask)
