"""Output head and cross-entropy in one, block by block: the logits of all positions never exist at once.

Shape letters: S supervised positions, C of them in a block, D hidden width, V vocabulary.

The gradient of the logits is known as soon as their loss is, so each block's gradients are made in the forward pass and
only scaled in the backward pass (as Liger-Kernel does, arXiv 2410.10989).
"""

from typing import Any

import torch
from torch import Tensor

BLOCK_POSITIONS = 2048
"""2,048 rows of 151,936 logits in bf16 are 0.6 GB; larger blocks are no faster on an H100."""


def summed_cross_entropy(
    hidden_SD: Tensor, weight_VD: Tensor, targets_S: Tensor, *, block_positions: int = BLOCK_POSITIONS
) -> Tensor:
    """Cross-entropy of `hidden @ weight.T` against `targets`, summed, in fp32; differentiable in hidden and weight."""
    loss: Tensor = _SummedCrossEntropy.apply(hidden_SD, weight_VD, targets_S, block_positions)
    return loss


def reference(hidden_SD: Tensor, weight_VD: Tensor, targets_S: Tensor) -> Tensor:
    """The same in plain words."""
    return torch.nn.functional.cross_entropy((hidden_SD @ weight_VD.t()).float(), targets_S, reduction="sum")


def _loss_and_gradient(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss of a block, and the gradient of its logits in their dtype."""
    wide_CV = logits_CV.float()
    log_total_C1 = wide_CV.logsumexp(-1, keepdim=True)
    loss = (log_total_C1[:, 0] - wide_CV.gather(1, targets_C[:, None])[:, 0]).sum()
    columns_V = torch.arange(logits_CV.shape[1], device=logits_CV.device)
    is_target_CV = columns_V[None] == targets_C[:, None]
    gradient_CV = (wide_CV - log_total_C1).exp() - is_target_CV.to(wide_CV.dtype)
    return loss, gradient_CV.to(logits_CV.dtype)


_compiled = torch.compile(_loss_and_gradient, dynamic=True)


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_SD: Tensor, weight_VD: Tensor, targets_S: Tensor, block_positions: int) -> Tensor:
        block = _compiled if hidden_SD.is_cuda else _loss_and_gradient
        d_hidden_SD = torch.empty_like(hidden_SD)
        d_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_SD.device)
        for begin in range(0, hidden_SD.shape[0], block_positions):
            part = slice(begin, begin + block_positions)
            loss, d_logits_CV = block(hidden_SD[part] @ weight_VD.t(), targets_S[part])
            total += loss
            torch.mm(d_logits_CV, weight_VD, out=d_hidden_SD[part])
            if d_weight_VD is not None:
                d_weight_VD += d_logits_CV.t() @ hidden_SD[part]
        ctx.save_for_backward(d_hidden_SD, d_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        d_hidden_SD, d_weight_VD = ctx.saved_tensors
        d_weight = None if d_weight_VD is None else (d_weight_VD * d_loss).to(ctx.weight_dtype)
        # in fp32: 1/tokens rounded to bf16 would shift every gradient by up to 0.2 %
        return (d_hidden_SD.float() * d_loss).to(d_hidden_SD.dtype), d_weight, None, None
