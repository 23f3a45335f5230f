"""What is trained: adapters or every weight."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_contract.base import ContractModel


class LoraMethod(ContractModel):
    """Low-rank adapters on the named projections; the base stays frozen (Hu et al. 2021, arXiv 2106.09685)."""

    type: Literal["LoRA"] = "LoRA"
    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    targets: tuple[str, ...] = Field(min_length=1)
    """Names of linear modules (`q_proj`), or the single word `all-linear`."""


class FullMethod(ContractModel):
    """Every weight is trained."""

    type: Literal["Full"] = "Full"


Method = Annotated[LoraMethod | FullMethod, Field(discriminator="type")]
