"""Every weight is trained, except the routers of a mixture of experts.

Nothing here balances their load, and a router that is trained without that learns to send everything to a few experts.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

from torch import Tensor
from transformers import PreTrainedModel

from finetune_contract import FullMethod
from finetune_trainer.expert_layout import place_of
from finetune_trainer.model import Source, WeightFiles, trained_parameters

EMBEDDING = "model.embed_tokens.weight"
ROUTER = ".mlp.gate"


def apply(model: PreTrainedModel, method: FullMethod, *, base_name: str) -> PreTrainedModel:  # noqa: ARG001 - as lora.apply
    """Mark every parameter as trained but the routers'."""
    model.requires_grad_(True)
    for name, module in model.named_modules():
        if name.endswith(ROUTER):
            module.requires_grad_(False)
    return model


def initial_values(method: FullMethod, files: WeightFiles, seed: int) -> Source:  # noqa: ARG001 - as lora.initial_values
    """The model's own weights."""
    return files.read


def base(method: FullMethod, files: WeightFiles) -> Source:  # noqa: ARG001 - as qlora.base
    """The weights that training began with."""
    return files.read


def rate_factors(model: PreTrainedModel, method: FullMethod) -> Mapping[str, float]:  # noqa: ARG001 - as lora.rate_factors
    """One rate for all."""
    return {}


def check_gradients(gradients: Mapping[str, Tensor]) -> None:
    """Nothing to find: a weight may honestly have no gradient, such as the embedding of a token that is not there."""


def table(model: PreTrainedModel) -> str:
    """What trains, in a line."""
    trained = [parameter.numel() for _, parameter in trained_parameters(model)]
    total = sum(parameter.numel() for parameter in model.parameters())
    return f"{len(trained)} tensors, {sum(trained):,} of {total:,} parameters"


def result(
    method: FullMethod,  # noqa: ARG001 - as lora.result
    files: WeightFiles,
    names: list[str],
    trained: Callable[[str], Tensor],
) -> Callable[[str], Tensor]:
    """The trained weights themselves; a tied head, which may stand in the files, was trained as the embedding."""
    trained = lru_cache(maxsize=2)(trained)  # the matrices of a layer's experts lie side by side, in two tensors

    def value(name: str) -> Tensor:
        place = place_of(name)
        if place is not None and place.fused in names:
            return trained(place.fused)[place.expert].chunk(place.parts)[place.part]
        if f"{ROUTER}." in name:
            return files.read(name).float()
        return trained(name if name in names else EMBEDDING)

    return value
