"""All experts of a mixture at once: rows sorted by expert, one grouped product per projection, adapters included.

Shape letters: T tokens, K experts per token, S = T K rows sorted by expert, X experts, D width of a product's input,
E of its output, R adapter rank.

Registered with transformers' ExpertsInterface under the name EXPERTS, so its loop over experts never runs. An adapter
is two narrow grouped products beside the wide one: the sum W + B A, which PEFT's own module makes of all experts for
every forward pass and keeps for the backward pass, never exists.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, pad
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

EXPERTS = "sorted"

_ALIGNMENT = 8
"""Grouped products want rows that begin at multiples of 16 bytes: ranks are filled up with zeros to so many."""


class Factors(Protocol):
    """An adapter of all experts."""

    def __call__(self) -> tuple[Tensor, Tensor, float]:
        """A [X, R, D], B [X, E, R], and the factor of their product."""


Product = Callable[[Tensor, Tensor], Tensor]
"""Rows [S, D] and where each expert's end [X] -> rows [S, E]."""


def go_through(experts: Any, hidden_TD: Tensor, chosen_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Each token's experts applied to it and added up by the router's weights; [T, D]."""
    tokens, per_token = chosen_TK.shape
    order_S = torch.argsort(chosen_TK.flatten(), stable=True)
    load_X = _load(chosen_TK, experts.num_experts)
    if experts.training:
        experts.load_X += load_X
    ends_X = load_X.cumsum(0, dtype=torch.int32)
    both_SE = _product(experts, "gate_up_proj", hidden_TD[order_S // per_token], ends_X)
    gate_SE, up_SE = both_SE.chunk(2, dim=-1)
    out_SD = _product(experts, "down_proj", experts.act_fn(gate_SE) * up_SE, ends_X)
    weighted_SD = out_SD * weights_TK.flatten()[order_S, None]
    back_S = torch.argsort(order_S)
    return weighted_SD[back_S].view(tokens, per_token, -1).sum(1).to(hidden_TD.dtype)


def _load(chosen_TK: Tensor, experts: int) -> Tensor:
    """Rows of each expert; counted by adding ones, since bincount would wait for the device."""
    chosen_S = chosen_TK.flatten()
    return torch.zeros(experts, dtype=torch.int64, device=chosen_S.device).scatter_add_(
        0, chosen_S, torch.ones_like(chosen_S)
    )


def _product(experts: Any, name: str, x_SD: Tensor, ends_X: Tensor) -> Tensor:
    products: Mapping[str, Product] = getattr(experts, "products", {})
    adapters: Mapping[str, Factors] = getattr(experts, "adapters", {})
    y_SE = products[name](x_SD, ends_X) if name in products else _plain(getattr(experts, name), x_SD, ends_X)
    if name not in adapters:
        return y_SE
    a_XRD, b_XER, factor = adapters[name]()
    missing = -a_XRD.shape[1] % _ALIGNMENT
    a_XRD, b_XER = pad(a_XRD.to(y_SE.dtype), (0, 0, 0, missing)), pad(b_XER.to(y_SE.dtype), (0, missing))
    return y_SE + factor * _plain(b_XER, _plain(a_XRD, x_SD, ends_X), ends_X)


def _plain(weight_XED: Tensor, x_SD: Tensor, ends_X: Tensor) -> Tensor:
    """Autocast knows nothing of grouped products, so what it does for others is done here."""
    device = x_SD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_XED.dtype
    return grouped_mm(x_SD.to(dtype), weight_XED.to(dtype).contiguous().transpose(-2, -1), offs=ends_X)


def modules(model: nn.Module) -> list[nn.Module]:
    """The experts of each layer that has some, in the order of the layers."""
    return [module for module in model.modules() if isinstance(module, Qwen3MoeExperts)]


def count_load(model: nn.Module) -> None:
    """Let every layer of experts count the rows that each of them gets in training, on the device."""
    for module in modules(model):
        load_X = torch.zeros(cast(int, module.num_experts), dtype=torch.int64)
        module.register_buffer("load_X", load_X, persistent=False)


@torch.no_grad()
def take_load(model: nn.Module) -> Tensor | None:
    """What each expert [layers, X] got since the last call; None for a model without experts. Waits for the device."""
    counters = [cast(Tensor, module.load_X) for module in modules(model)]
    if not counters:
        return None
    load = torch.stack(counters).cpu()
    for counter in counters:
        counter.zero_()
    return load


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, go_through)
