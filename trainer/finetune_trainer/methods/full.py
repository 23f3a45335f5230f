"""Every weight is trained."""

from collections.abc import Callable, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from finetune_contract import FullMethod
from finetune_trainer.model import Source, WeightFiles

EMBEDDING = "model.embed_tokens.weight"


def apply(model: PreTrainedModel, method: FullMethod, *, base_name: str) -> PreTrainedModel:  # noqa: ARG001 - as lora.apply
    """Mark every parameter as trained."""
    return model.requires_grad_(True)


def initial_values(method: FullMethod, files: WeightFiles, seed: int) -> Source:  # noqa: ARG001 - as lora.initial_values
    """The model's own weights."""
    return files.read


def rate_factors(model: PreTrainedModel, method: FullMethod) -> Mapping[str, float]:  # noqa: ARG001 - as lora.rate_factors
    """One rate for all."""
    return {}


def check_gradients(gradients: Mapping[str, Tensor]) -> None:
    """Nothing to find: a weight may honestly have no gradient, such as the embedding of a token that is not there."""


def table(model: PreTrainedModel) -> str:
    """What trains, in a line."""
    parameters = list(model.parameters())
    return f"all {len(parameters)} tensors, {sum(each.numel() for each in parameters):,} parameters"


def result(
    method: FullMethod,  # noqa: ARG001 - as lora.result
    files: WeightFiles,  # noqa: ARG001
    names: list[str],
    trained: Callable[[str], Tensor],
) -> Callable[[str], Tensor]:
    """The trained weights themselves; a tied head, which may stand in the files, was trained as the embedding."""

    def value(name: str) -> Tensor:
        return trained(name if name in names else EMBEDDING)

    return value
