"""What is trained: adapters on a frozen base, the same on a base in four bits, or every weight."""

import math
import re
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from finetune_contract.base import ContractModel

ALL_LINEAR = "all-linear"
"""As a target: every linear module but the output head."""


class AdapterMethod(ContractModel):
    """What LoRA and QLoRA share: low-rank adapters on frozen weights (Hu et al. 2021, arXiv 2106.09685).

    The fields are PEFT's, and names match modules as PEFT matches them.
    """

    type: str
    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    targets: tuple[str, ...]
    """Names of linear modules (`q_proj`), or the single word `all-linear`."""
    target_parameters: tuple[str, ...] = ()
    """Names of 3-D parameters: the experts of a mixture (`experts.gate_up_proj`)."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=dict)
    """Other ranks, by module name."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Other alphas, by module name."""
    modules_to_save: tuple[str, ...] = ()
    """Ends of the names of modules that are trained whole: norms, embedding, output head."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732)."""
    use_dora: bool = False
    """Magnitude and direction apart (Liu et al. 2024, arXiv 2402.09353)."""
    loraplus_lr_ratio: float = Field(default=1.0, ge=1)
    """Learning rate of B in units of A's (Hayou et al. 2024, arXiv 2402.12354)."""

    @model_validator(mode="after")
    def _adapts_something(self) -> Self:
        if not self.targets and not self.target_parameters:
            raise ValueError("targets and target_parameters are both empty: there is nothing to adapt")
        if self.target_parameters and (self.use_dora or self.dropout):
            raise ValueError("target_parameters go with neither use_dora nor dropout")
        return self

    def __hash__(self) -> int:
        """Patterns are dictionaries, which have no hash of their own."""
        return hash(self.model_dump_json())

    def rank_of(self, module: str) -> int:
        """Rank of the adapter on `module`, a full name."""
        return self.rank_pattern.get(matching_key(self.rank_pattern, module), self.rank)

    def scaling_of(self, module: str) -> float:
        """What the product of the adapter's halves is multiplied with."""
        alpha, rank = self.alpha_pattern.get(matching_key(self.alpha_pattern, module), self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def matching_key(pattern: Iterable[str], module: str) -> str:
    """The first key of a rank or alpha pattern that means `module`, or else `module` itself.

    A key is a regular expression for the last parts of the name: PEFT's rule (peft.utils.other.get_pattern_key).
    """
    return next((key for key in pattern if re.match(rf"(.*\.)?({key})$", module)), module)


class LoraMethod(AdapterMethod):
    """Adapters on the base as it is."""

    type: Literal["LoRA"] = "LoRA"


class Quantization(ContractModel):
    """How the frozen projections are stored: 4-bit normal float, a scale for each block of a row.

    Source: Dettmers et al. 2023, arXiv 2305.14314, sections 3 and 4.
    """

    block_size: Literal[64, 128, 256, 512] = 64
    """Weights that share a scale."""
    double_quantization: bool = True
    """Store the scales in 8 bits, with a scale in fp32 for each 256 of them."""


class QloraMethod(AdapterMethod):
    """Adapters on a base whose projections are stored in four bits."""

    type: Literal["QLoRA"] = "QLoRA"
    quantization: Quantization = Quantization()


class FullMethod(ContractModel):
    """Every weight is trained; the routers of a mixture of experts stay as they are."""

    type: Literal["Full"] = "Full"


Method = Annotated[LoraMethod | QloraMethod | FullMethod, Field(discriminator="type")]
