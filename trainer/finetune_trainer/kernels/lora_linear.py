"""A frozen product and its low-rank update as one operation, y = x W^T + x A^T B^T, with its gradients.

Shape letters: T tokens, D width of the input, E of the output, R rank of all adapters of the product together.

Written out as modules the update costs a pass over y in the forward and one over the gradient of x in the backward
pass, besides the small products. Here cuBLAS adds it in place, and the compiler sees one node. Gradients of W are never
made. `b_ER` carries the scaling; the gradient of a merged product's block-diagonal B is cut by whoever assembled it.
"""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("qwen3_finetune::lora_linear", mutates_args=())
def _forward(x_TD: Tensor, weight_ED: Tensor, a_RD: Tensor, b_ER: Tensor) -> tuple[Tensor, Tensor]:
    """y and x A^T, which the backward pass needs."""
    h_TR = x_TD @ a_RD.t()
    y_TE = x_TD @ weight_ED.t()
    y_TE.addmm_(h_TR, b_ER.t())
    return y_TE, h_TR


@_forward.register_fake
def _(x_TD: Tensor, weight_ED: Tensor, a_RD: Tensor, b_ER: Tensor) -> tuple[Tensor, Tensor]:
    return x_TD.new_empty(x_TD.shape[0], weight_ED.shape[0]), x_TD.new_empty(x_TD.shape[0], a_RD.shape[0])


@torch.library.custom_op("qwen3_finetune::lora_linear_backward", mutates_args=())
def _backward(
    dy_TE: Tensor, x_TD: Tensor, h_TR: Tensor, weight_ED: Tensor, a_RD: Tensor, b_ER: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, A and B."""
    dh_TR = dy_TE @ b_ER
    dx_TD = dy_TE @ weight_ED
    dx_TD.addmm_(dh_TR, a_RD)
    return dx_TD, dh_TR.t() @ x_TD, dy_TE.t() @ h_TR


@_backward.register_fake
def _(
    dy_TE: Tensor, x_TD: Tensor, h_TR: Tensor, weight_ED: Tensor, a_RD: Tensor, b_ER: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x_TD), torch.empty_like(a_RD), torch.empty_like(b_ER)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    x_TD, weight_ED, a_RD, b_ER = inputs
    ctx.save_for_backward(x_TD, output[1], weight_ED, a_RD, b_ER)


def _gradients(ctx: Any, dy_TE: Tensor, _dh: Tensor | None) -> tuple[Tensor | None, None, Tensor, Tensor]:
    x_TD, h_TR, weight_ED, a_RD, b_ER = ctx.saved_tensors
    dy_TE = dy_TE.contiguous()
    if ctx.needs_input_grad[0]:
        dx_TD, da_RD, db_ER = _backward(dy_TE, x_TD, h_TR, weight_ED, a_RD, b_ER)
        return dx_TD, None, da_RD, db_ER
    # the first layer's input is the frozen embedding: nobody needs its gradient
    return None, None, (dy_TE @ b_ER).t() @ x_TD, dy_TE.t() @ h_TR


_forward.register_autograd(_gradients, setup_context=_save)


def lora_linear(x_TD: Tensor, weight_ED: Tensor, a_RD: Tensor, b_ER: Tensor) -> Tensor:
    """x W^T + (x A^T) B^T, [T, E]; differentiable in x, A and B."""
    y_TE: Tensor = _forward(x_TD, weight_ED, a_RD, b_ER)[0]
    return y_TE


def reference(x_TD: Tensor, weight_ED: Tensor, a_RD: Tensor, b_ER: Tensor) -> Tensor:
    """The same in plain words."""
    return x_TD @ weight_ED.t() + (x_TD @ a_RD.t()) @ b_ER.t()
