"""What PEFT calls the parameters of an adapted model, and the way back to the model's own names.

    base_model.model.model.norm.weight                               a module that has no adapter
    base_model.model.<module>.base_layer.weight                      the frozen weight of one that has
    base_model.model.<module>.lora_A.default.weight                  half of its adapter
    base_model.model.<experts>.lora_A.default.weight                 half of that of the experts' last adapted parameter
    base_model.model.<experts>.base_layer.lora_A.default.weight      ... of the one before

`default` is PEFT's name for the one adapter, and no part of the saved names.
"""

from finetune_contract import AdapterMethod
from finetune_trainer.targets import EXPERTS, is_named

PREFIX = "base_model.model."
HALF_A, HALF_B, MAGNITUDE = ".lora_A.", ".lora_B.", ".lora_magnitude_vector."
_BASE = ".base_layer"
_ADAPTER = ".default"


def base_name(name: str) -> str:
    """Name in the model itself of a frozen parameter, or of a module that is trained whole."""
    return name.removeprefix(PREFIX).replace(_BASE, "")


def saved_name(name: str) -> str:
    """Name in adapter_model.safetensors of a trained parameter."""
    saved = name.replace(_ADAPTER, "")
    return saved.removesuffix(".weight") if MAGNITUDE in name else saved


def is_adapter(name: str) -> bool:
    """Whether a trained parameter is part of an adapter; else it belongs to a module that is trained whole."""
    return any(kind in name for kind in (HALF_A, HALF_B, MAGNITUDE))


def adapted(name: str, method: AdapterMethod) -> str:
    """What the adapter with the parameter `name` is on: a linear module, or a parameter of experts."""
    place = name.removeprefix(PREFIX).partition(".lora_")[0]
    module = place.replace(_BASE, "")
    if not module.endswith(".experts"):
        return module
    chosen = [f"{module}.{kind}" for kind in EXPERTS if is_named(f"{module}.{kind}", method.target_parameters)]
    return chosen[-1 - place.count(_BASE)]


def weight_of(adapted_part: str) -> str:
    """Name of the weight that an adapter on `adapted_part` changes."""
    return adapted_part if is_expert_parameter(adapted_part) else f"{adapted_part}.weight"


def is_expert_parameter(adapted_part: str) -> bool:
    """Whether an adapter is on a parameter of experts."""
    return adapted_part.rpartition(".")[0].endswith(".experts")
