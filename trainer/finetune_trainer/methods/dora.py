"""DoRA: the rows of W + s B A keep their direction and get a trained length (Liu et al. 2024, arXiv 2402.09353).

Shape letters: E outputs, D inputs, R rank.

PEFT's own module multiplies with a D x D identity to learn B A, takes norms in the compute format and wants the weight
itself. This one takes the norm of the sum from its parts, in fp32:

    |w + s b A|^2 = |w|^2 + 2 s b (A w) + s^2 b (A A^T) b        for each row w of W and b of B

so a quantised base serves as well, and a fresh adapter is the base to the last bit. As in the paper, the norm is a
constant to the gradient. Dropout falls on the input of A alone.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn


class Dora(DoraLinearVariant):  # type: ignore[misc]
    """What PEFT's lora.Linear calls in place of W x + s B A x; merging is PEFT's."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """m / |W + s B A| (W x + s B A x), where `result` is W x."""
        half_a, half_b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        factor = module.scaling[active_adapter]
        total = result + factor * half_b(half_a(module.lora_dropout[active_adapter](x)))
        weight_ED = base_weight(module.get_base_layer(), result.dtype)
        norm_E = row_norms(weight_ED, half_a.weight, half_b.weight, factor)
        ratio_E = module.lora_magnitude_vector[active_adapter].weight.float() / norm_E
        # near one, so it is the distance from one that is rounded
        scaled: Tensor = total + (ratio_E - 1).to(total.dtype) * total
        return scaled


def base_weight(module: Any, dtype: torch.dtype) -> Tensor:
    """The weight of a frozen module [E, D], made whole if it is stored in four bits."""
    weight: Tensor = module.whole(dtype) if hasattr(module, "whole") else module.weight
    return weight


@torch.no_grad()
def row_norms(weight_ED: Tensor, a_RD: Tensor, b_ER: Tensor, factor: float) -> Tensor:
    """|W + factor B A| of each row, fp32."""
    base_E = lengths(weight_ED)
    inner_ER = (weight_ED @ a_RD.to(weight_ED.dtype).t()).float()  # W itself is never copied
    a_RD, b_ER = a_RD.float(), b_ER.float()
    cross_E = (b_ER * inner_ER).sum(1)
    own_E = (b_ER @ (a_RD @ a_RD.t()) * b_ER).sum(1)
    # written so that B = 0 leaves the base's lengths as they are; a row of zeros has no direction to keep
    change_E = (2 * factor * cross_E + factor**2 * own_E) / base_E.square()
    return base_E * (1 + change_E).clamp(min=0).sqrt()


def lengths(weight_ED: Tensor) -> Tensor:
    """Length of each row, fp32."""
    norms_E: Tensor = torch.linalg.vector_norm(weight_ED, dim=1, dtype=torch.float32)
    return norms_E.clamp(min=1e-12)


def install(model: nn.Module) -> None:
    """Put this variant in the place of PEFT's."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.lora_variant = dict.fromkeys(module.lora_variant, Dora())
