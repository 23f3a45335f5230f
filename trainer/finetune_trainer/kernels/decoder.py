"""The decoder layers of Qwen3 on the fast path: merged projections, one operation each, compiled per layer.

Shape letters: T tokens, D hidden width, E output width of a product, R adapter rank, H query heads, K key/value heads,
W width of a head, I width of the feed-forward layer.

Parameters keep their names and places: a merged weight is one tensor whose rows the projections' own weights are views
of. So checkpoints, export and the optimizer know nothing of this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from finetune_trainer.attention import Documents, attend
from finetune_trainer.kernels.fp8 import Fp8Weight, fp8_lora_linear
from finetune_trainer.kernels.lora_linear import lora_linear

ADAPTER = "default"
ATTENTION_IN = ("q_proj", "k_proj", "v_proj")
FEED_FORWARD_IN = ("gate_proj", "up_proj")


@dataclass(slots=True)
class Merged:
    """Projections of the same input as one product."""

    parts: tuple[nn.Module, ...]
    weight_ED: Tensor
    fp8: Fp8Weight | None

    @property
    def sizes(self) -> list[int]:
        """Output width of each part."""
        return [_base(part).shape[0] for part in self.parts]

    @classmethod
    def of(cls, parts: Sequence[nn.Module], *, fp8: bool) -> "Merged":
        """Make the parts' weights views of one tensor."""
        weights = [_base(part) for part in parts]
        merged_ED = weights[0].data if len(weights) == 1 else torch.cat([weight.data for weight in weights])
        begin = 0
        for weight in weights:
            weight.data = merged_ED[begin : begin + weight.shape[0]]
            begin += weight.shape[0]
        return cls(tuple(parts), merged_ED, Fp8Weight.of(merged_ED) if fp8 else None)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """All outputs side by side, [T, E]."""
        adapted = [part for part in self.parts if isinstance(part, LoraLinear)]
        if not adapted:
            return linear(x_TD, self.weight_ED)
        a_RD = torch.cat([part.lora_A[ADAPTER].weight for part in adapted]).to(x_TD.dtype)
        b_ER = self._block_diagonal().to(x_TD.dtype)
        if self.fp8 is not None:
            return fp8_lora_linear(x_TD, self.fp8, a_RD, b_ER)
        return lora_linear(x_TD, self.weight_ED, a_RD, b_ER)

    def _block_diagonal(self) -> Tensor:
        blocks = []
        for part in self.parts:
            if isinstance(part, LoraLinear):
                blocks.append(part.lora_B[ADAPTER].weight * part.scaling[ADAPTER])
            else:
                blocks.append(_base(part).new_zeros(_base(part).shape[0], 0))
        whole_ER: Tensor = torch.block_diag(*blocks) if len(blocks) > 1 else blocks[0]  # type: ignore[no-untyped-call]
        return whole_ER


def _base(part: nn.Module) -> nn.Parameter:
    weight = part.base_layer.weight if isinstance(part, LoraLinear) else part.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def quicken(layer: nn.Module, *, fp8: bool, compiled: bool = True) -> None:
    """Give a decoder layer its fast forward functions."""
    attention: Any = layer.self_attn
    feed_forward: Any = layer.mlp
    attention.merged_in = Merged.of([getattr(attention, name) for name in ATTENTION_IN], fp8=fp8)
    attention.merged_out = Merged.of([attention.o_proj], fp8=fp8)
    attention.forward = MethodType(_attention, attention)
    feed_forward.merged_in = Merged.of([getattr(feed_forward, name) for name in FEED_FORWARD_IN], fp8=fp8)
    feed_forward.merged_out = Merged.of([feed_forward.down_proj], fp8=fp8)
    feed_forward.forward = MethodType(_feed_forward, feed_forward)
    if compiled:
        layer.compile()


def _attention(
    attention: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    *,
    documents: Documents,
    **_: Any,
) -> tuple[Tensor, None]:
    width = attention.head_dim
    mixed_TE = attention.merged_in(hidden_states[0])
    query, key, value = (
        each[None].unflatten(-1, (-1, width)) for each in mixed_TE.split(attention.merged_in.sizes, -1)
    )
    query_1HTW, key_1KTW = attention.q_norm(query).transpose(1, 2), attention.k_norm(key).transpose(1, 2)
    query_1HTW, key_1KTW = apply_rotary_pos_emb(query_1HTW, key_1KTW, *position_embeddings)
    attended_1THW, _none = attend(
        attention, query_1HTW, key_1KTW, value.transpose(1, 2), None, scaling=attention.scaling, documents=documents
    )
    return attention.merged_out(attended_1THW[0].flatten(1))[None], None


def _feed_forward(feed_forward: Any, x_1TD: Tensor) -> Tensor:
    gate_TI, up_TI = feed_forward.merged_in(x_1TD[0]).chunk(2, dim=-1)
    y_1TD: Tensor = feed_forward.merged_out(silu(gate_TI) * up_TI)[None]
    return y_1TD
