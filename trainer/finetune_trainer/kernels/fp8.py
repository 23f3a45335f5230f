"""A frozen product in FP8 in both directions, with the low-rank update in bf16.

Shape letters as in lora_linear. Weights are quantised once, row by row (a scale for each row of the stored matrix), and
kept twice: as they are, for the forward product, and transposed, for the gradient of x, since Hopper's FP8 products
want both operands with the inner dimension contiguous. Activations and gradients are quantised row by row each time;
this is left to the compiler, which fuses it with the norm or activation that made them.

Numbers: e4m3 for all three, whose largest value is 448 (Micikevicius et al. 2022, arXiv 2209.05433).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = 448.0


def quantised(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in FP8 and their scales [N, 1] in fp32, so that x is about `rows * scales`."""
    scale_N1 = x_ND.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x_ND / scale_N1).clamp(-LARGEST, LARGEST).to(FP8), scale_N1


@dataclass(frozen=True, slots=True)
class Fp8Weight:
    """A frozen weight in both layouts."""

    rows_ED: Tensor
    row_scales_E1: Tensor
    columns_DE: Tensor
    column_scales_D1: Tensor

    @classmethod
    def of(cls, weight_ED: Tensor) -> "Fp8Weight":
        """Quantise `weight_ED`."""
        return cls(*quantised(weight_ED), *quantised(weight_ED.t().contiguous()))


def _product(x_TD: Tensor, x_scales_T1: Tensor, w_ED: Tensor, w_scales_E1: Tensor) -> Tensor:
    return torch._scaled_mm(
        x_TD, w_ED.t(), scale_a=x_scales_T1, scale_b=w_scales_E1.t(), out_dtype=torch.bfloat16, use_fast_accum=True
    )


@torch.library.custom_op("qwen3_finetune::fp8_lora_linear", mutates_args=())
def _forward(
    xq_TD: Tensor, xs_T1: Tensor, x_TD: Tensor, wq_ED: Tensor, ws_E1: Tensor, a_RD: Tensor, b_ER: Tensor
) -> tuple[Tensor, Tensor]:
    y_TE = _product(xq_TD, xs_T1, wq_ED, ws_E1)
    h_TR = x_TD @ a_RD.t()
    y_TE.addmm_(h_TR, b_ER.t())
    return y_TE, h_TR


@_forward.register_fake
def _(
    xq_TD: Tensor, xs_T1: Tensor, x_TD: Tensor, wq_ED: Tensor, ws_E1: Tensor, a_RD: Tensor, b_ER: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return x_TD.new_empty(x_TD.shape[0], wq_ED.shape[0]), x_TD.new_empty(x_TD.shape[0], a_RD.shape[0])


@torch.library.custom_op("qwen3_finetune::fp8_lora_linear_backward", mutates_args=())
def _backward(
    dyq_TE: Tensor, dys_T1: Tensor, dy_TE: Tensor, x_TD: Tensor, h_TR: Tensor, wq_DE: Tensor, ws_D1: Tensor,
    a_RD: Tensor, b_ER: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dh_TR = dy_TE @ b_ER
    dx_TD = _product(dyq_TE, dys_T1, wq_DE, ws_D1)
    dx_TD.addmm_(dh_TR, a_RD)
    return dx_TD, dh_TR.t() @ x_TD, dy_TE.t() @ h_TR


@_backward.register_fake
def _(
    dyq_TE: Tensor, dys_T1: Tensor, dy_TE: Tensor, x_TD: Tensor, h_TR: Tensor, wq_DE: Tensor, ws_D1: Tensor,
    a_RD: Tensor, b_ER: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x_TD), torch.empty_like(a_RD), torch.empty_like(b_ER)


class _Fp8LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, wq_ED: Tensor, ws_E1: Tensor, wq_DE: Tensor, ws_D1: Tensor, a_RD: Tensor, b_ER: Tensor
    ) -> Tensor:
        outputs: tuple[Tensor, Tensor] = _forward(*quantised(x_TD), x_TD, wq_ED, ws_E1, a_RD, b_ER)
        y_TE, h_TR = outputs
        ctx.save_for_backward(x_TD, h_TR, wq_DE, ws_D1, a_RD, b_ER)
        return y_TE

    @staticmethod
    def backward(ctx: Any, dy_TE: Tensor) -> tuple[Tensor | None, None, None, None, None, Tensor, Tensor]:
        x_TD, h_TR, wq_DE, ws_D1, a_RD, b_ER = ctx.saved_tensors
        dy_TE = dy_TE.contiguous()
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, (dy_TE @ b_ER).t() @ x_TD, dy_TE.t() @ h_TR
        dx_TD, da_RD, db_ER = _backward(*quantised(dy_TE), dy_TE, x_TD, h_TR, wq_DE, ws_D1, a_RD, b_ER)
        return dx_TD, None, None, None, None, da_RD, db_ER


def fp8_lora_linear(x_TD: Tensor, weight: Fp8Weight, a_RD: Tensor, b_ER: Tensor) -> Tensor:
    """As lora_linear.lora_linear, with the base product and the base's share of x's gradient in FP8."""
    y_TE: Tensor = _Fp8LoraLinear.apply(
        x_TD, weight.rows_ED, weight.row_scales_E1, weight.columns_DE, weight.column_scales_D1, a_RD, b_ER
    )
    return y_TE
