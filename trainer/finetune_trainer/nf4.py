"""Frozen weights in four bits: stored by bitsandbytes' NF4, made whole again for each product and thrown away after it.

Shape letters: N any leading dimensions, E output rows, D width of the input, B block size, S rows of a product sorted
by expert, X experts.

A weight [N, E, D] becomes plain tensors of bytes, so that every strategy can cut them by rows, send and keep them
without knowing what they are: `packed` [N, E, D/2], two weights to a byte, and `scales`, the fp32 scale of each block
of B weights of a row, as bytes [N, E, 4 D/B]; or, quantised again, [N, E, D/B] with `scales_of_scales` [K + 1, 4], the
fp32 scale of each 256 of them and their common offset. No block crosses a row, since B divides D. Bit for bit what
bitsandbytes' own Linear4bit holds.

Source: Dettmers et al. 2023, arXiv 2305.14314.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import bitsandbytes.functional as bnb
import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, linear

_SCALE_BLOCK = 256
"""Scales that share a scale of their own: bitsandbytes' constant."""
_SUFFIXES = ("", "_scales", "_scales_of_scales")
"""What a weight's tensors are called, after its own name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight was stored, apart from its bytes."""

    shape: tuple[int, ...]
    block_size: int
    is_double: bool
    """Whether the scales are quantised as well."""


class Stored(NamedTuple):
    """A weight as bytes; see the head of this file."""

    packed: Tensor
    scales: Tensor
    scales_of_scales: Tensor | None


def empty(layout: Layout) -> Stored:
    """The tensors of a weight on the meta device, to be filled by whoever spreads the model."""
    *rows, width = layout.shape
    blocks = width // layout.block_size
    double = None
    if layout.is_double:
        scales = torch.Size(rows).numel() * blocks
        double = _bytes(-(-scales // _SCALE_BLOCK) + 1, 4)
    return Stored(_bytes(*rows, width // 2), _bytes(*rows, blocks if layout.is_double else 4 * blocks), double)


def _bytes(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, device="meta")


def stored(weight: Tensor, layout: Layout) -> Stored:
    """Quantise `weight`, wherever it lies."""
    assert tuple(weight.shape) == layout.shape
    packed, state = bnb.quantize_4bit(
        weight.contiguous(), blocksize=layout.block_size, compress_statistics=layout.is_double, quant_type="nf4"
    )
    rows = layout.shape[:-1]
    if not layout.is_double:
        return Stored(packed.view(*rows, -1), state.absmax.view(*rows, -1).view(torch.uint8), None)
    constants = torch.cat([state.state2.absmax.flatten(), state.offset.reshape(1)])
    return Stored(packed.view(*rows, -1), state.absmax.view(*rows, -1), constants[:, None].view(torch.uint8))


def whole(parts: Stored, layout: Layout, dtype: torch.dtype) -> Tensor:
    """The weight [N, E, D]."""
    assert parts.packed.dtype is torch.uint8, "bytes stay bytes on their way through a strategy"
    state: Any = bnb.QuantState(
        absmax=_scales(parts), shape=torch.Size(layout.shape), blocksize=layout.block_size, quant_type="nf4",
        dtype=dtype,
    )  # fmt: skip
    made: Tensor = bnb.dequantize_4bit(parts.packed.reshape(-1, 1), state)
    return made


def _scales(parts: Stored) -> Tensor:
    if parts.scales_of_scales is None:
        return _as_floats(parts.scales)
    constants = _as_floats(parts.scales_of_scales)
    state: Any = bnb.QuantState(
        absmax=constants[:-1], blocksize=_SCALE_BLOCK, code=_code(parts.scales.device), dtype=torch.float32
    )
    scales: Tensor = bnb.dequantize_blockwise(parts.scales.flatten(), state)
    return scales + constants[-1]


def _as_floats(data: Tensor) -> Tensor:
    """The fp32 numbers in `data`; copied when a strategy has put the bytes where no number may begin."""
    aligned = data if data.storage_offset() % 4 == 0 else data.clone()
    return aligned.view(torch.float32).flatten()


_codes: dict[torch.device, Tensor] = {}


def _code(device: torch.device) -> Tensor:
    """bitsandbytes' values of the 8-bit scales."""
    if device not in _codes:
        _codes[device] = bnb.create_dynamic_map().to(device)
    return _codes[device]


class _Product(torch.autograd.Function):
    """x W^T, for the rows of each expert with its own W if `ends_X` says where they end; W is never kept."""

    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, layout: Layout, ends_X: Tensor | None, *parts: Tensor | None) -> Tensor:
        ctx.save_for_backward(ends_X, *parts)
        ctx.layout = layout
        weight = whole(Stored(*parts), layout, x_SD.dtype)  # type: ignore[arg-type]
        return linear(x_SD, weight) if ends_X is None else grouped_mm(x_SD, weight.transpose(-2, -1), offs=ends_X)

    @staticmethod
    def backward(ctx: Any, gradient_SE: Tensor) -> tuple[Tensor | None, ...]:
        ends_X, *parts = ctx.saved_tensors
        weight = whole(Stored(*parts), ctx.layout, gradient_SE.dtype)
        if ends_X is None:
            return (gradient_SE @ weight, *[None] * 5)
        return (grouped_mm(gradient_SE.contiguous(), weight, offs=ends_X), *[None] * 5)


def product(x_SD: Tensor, parts: Stored, layout: Layout, ends_X: Tensor | None = None) -> Tensor:
    """x W^T, differentiable in x, in the dtype that any product would have here."""
    device = x_SD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_SD.dtype
    with torch.autocast(device, enabled=False):
        made: Tensor = _Product.apply(x_SD.to(dtype), layout, ends_X, *parts)
    return made


class Nf4Linear(nn.Linear):
    """A frozen linear module whose weight is stored in four bits."""

    layout: Layout

    def forward(self, x_SD: Tensor) -> Tensor:
        """x W^T; there is no bias, as in all of Qwen3."""
        return product(x_SD, parts_of(self, "weight"), self.layout)

    def whole(self, dtype: torch.dtype) -> Tensor:
        """The weight [E, D]."""
        return whole(parts_of(self, "weight"), self.layout, dtype)


def quantise(module: nn.Linear, block_size: int, *, is_double: bool) -> None:
    """Let `module`, which lies on the meta device, store its weight in four bits from now on."""
    module.__class__ = Nf4Linear
    assert isinstance(module, Nf4Linear)
    module.layout = quantise_parameter(module, "weight", block_size, is_double=is_double)


def quantise_parameter(module: nn.Module, name: str, block_size: int, *, is_double: bool) -> Layout:
    """Put the bytes of the parameter `name` in its place, on the meta device; their names begin with its own."""
    layout = Layout(tuple(getattr(module, name).shape), block_size, is_double)
    for suffix, part in zip(_SUFFIXES, empty(layout), strict=True):
        if part is not None:
            module.register_parameter(name + suffix, nn.Parameter(part, requires_grad=False))
    return layout


def parts_of(module: nn.Module, name: str) -> Stored:
    """The bytes that stand for the parameter `name` of `module`."""
    return Stored(*(getattr(module, name + suffix, None) for suffix in _SUFFIXES))  # type: ignore[arg-type]


def weight_name(name: str) -> str:
    """`name` of bytes -> that of the weight which they stand for."""
    return name.removesuffix(_SUFFIXES[2]).removesuffix(_SUFFIXES[1])


def part(parts: Stored, name: str) -> Tensor:
    """Those bytes of `parts` that are called `name`."""
    found = parts[_SUFFIXES.index(name.removeprefix(weight_name(name)))]
    assert found is not None
    return found
