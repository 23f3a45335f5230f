"""What is trained. Every method is a file with the same functions; `chosen` imports the one that a run needs.

apply(model, method, base_name) -> model   mark what is trained, on the skeleton; raises UserError
initial_values(method, files, seed)        Source of every parameter's first value
table(model)                               what trains, as lines of text
rate_factors(model, method)                own learning rates of parameters, in units of the run's
base(method, files)                        Source of the weights that training ran on, by their names in files or model
check_gradients(norms)                     raise when the first step shows that something does not learn
result(method, files, names, trained)      the weights of the whole model after training, for export
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from torch import Tensor
from transformers import PreTrainedModel

import finetune_trainer.lean_peft  # noqa: F401 - before any file here imports PEFT
from finetune_contract import LoraMethod, Method, QloraMethod
from finetune_trainer.model import Source, WeightFiles


class MethodModule(Protocol):
    """What a method's file offers."""

    def apply(self, model: PreTrainedModel, method: Any, *, base_name: str) -> PreTrainedModel:
        """Mark what is trained."""

    def table(self, model: PreTrainedModel) -> str:
        """What trains, as lines of text."""

    def initial_values(self, method: Any, files: WeightFiles, seed: int) -> Source:
        """Where every parameter's first value comes from."""

    def base(self, method: Any, files: WeightFiles) -> Source:
        """The weights that training ran on, by their names in the files or in the model: `files`' own, or rounded."""

    def rate_factors(self, model: PreTrainedModel, method: Any) -> Mapping[str, float]:
        """Trained parameters whose learning rate is not the run's, and by what factor."""

    def check_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Raise when something does not learn; gets the norm of every trained parameter's gradient."""

    def result(
        self, method: Any, files: WeightFiles, names: list[str], trained: Callable[[str], Tensor]
    ) -> Callable[[str], Tensor]:
        """Name of a weight in `files` -> its value after training, whole, in fp32.

        `names` are the trained parameters, `trained` reads one of them, fp32.
        """


def chosen(method: Method) -> MethodModule:
    """The file that implements `method`."""
    if isinstance(method, LoraMethod):
        from finetune_trainer.methods import lora

        return cast(MethodModule, lora)
    if isinstance(method, QloraMethod):
        from finetune_trainer.methods import qlora

        return cast(MethodModule, qlora)
    from finetune_trainer.methods import full

    return cast(MethodModule, full)
