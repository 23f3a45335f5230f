"""Attention over documents that lie side by side in one row and never see one another.

Shape letters: T tokens of a micro-batch, H query heads, K key/value heads, D width of a head, N documents.

No mask tensor exists. Where documents begin is known on the CPU before the forward pass, so no layer waits for the
device. Registered with transformers' AttentionInterface under the name ATTENTION.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

ATTENTION = "documents"


@dataclass(frozen=True, slots=True)
class Documents:
    """Where the documents of a micro-batch begin, in the two forms that the kernels want."""

    offsets: tuple[int, ...]
    offsets_N1: Tensor
    """The same on the device, int32."""
    longest: int


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
    kernel, options = _kernel()
    dtype = value_1KTD.dtype  # under autocast the norms of query and key hand back fp32
    query_THD, key_TKD, value_TKD = (each[0].transpose(0, 1).to(dtype) for each in (query_1HTD, key_1KTD, value_1KTD))
    assert math.isclose(scaling, query_THD.shape[-1] ** -0.5), "the kernel's own scaling is Qwen3's"
    if "enable_gqa" not in options:
        groups = query_THD.shape[1] // key_TKD.shape[1]
        key_TKD, value_TKD = (each.repeat_interleave(groups, dim=1) for each in (key_TKD, value_TKD))
    offsets_N1, longest = documents.offsets_N1, documents.longest
    attended_THD: Tensor = kernel(query_THD, key_TKD, value_TKD, offsets_N1, offsets_N1, longest, longest, **options)
    return attended_THD[None]


@cache
def _kernel() -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """Torch's variable-length attention and the words for `causal` and `grouped heads`, which differ by version."""
    # imported here: torch without CUDA may lack it
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    return cast(Callable[..., Tensor], varlen_attn), options


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
