"""Low-rank adapters in PEFT's modules (Hu et al. 2021, arXiv 2106.09685).

Shape letters: R adapter rank, D width of a projection's input, E of its output.

Names: PEFT calls a frozen weight `base_model.model.<name>` and that of a projection with an adapter
`base_model.model.<module>.base_layer.weight`; `base_weight_name` leads back to the weight files.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_contract import LoraMethod
from finetune_trainer.failures import UserError
from finetune_trainer.model import Source, WeightFiles, trained_parameters

ALL_LINEAR = "all-linear"
_PREFIX = "base_model.model."
_ADAPTER = ".default."
"""PEFT's name for the one adapter, inside of parameter names; not part of the saved names."""


def apply(model: PreTrainedModel, method: LoraMethod, *, base_name: str) -> PreTrainedModel:
    """`model` with adapters, on the meta device as it is; everything else is frozen.

    Raises: UserError when a target matches nothing, or is tied to another weight.
    """
    modules = _target_modules(model, method.targets)
    config = _peft_config(method, modules, base_name)
    adapted = get_peft_model(model, config, low_cpu_mem_usage=True)
    return cast(PreTrainedModel, adapted)


def _target_modules(model: PreTrainedModel, targets: tuple[str, ...]) -> list[str]:
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if targets == (ALL_LINEAR,):
        return sorted(linear - {"lm_head"})
    unknown = sorted(set(targets) - linear)
    if unknown:
        raise UserError(
            "TargetNotFound",
            f"method.lora.targets: {unknown} match no linear module; the model has {sorted(linear)} ({ALL_LINEAR!r} "
            "means all of them but lm_head)",
        )
    if "lm_head" in targets and model.config.tie_word_embeddings:
        raise UserError(
            "TargetTied",
            "method.lora.targets: lm_head shares its weight with the embedding in this model, and an adapter on it "
            "could not be merged; leave it out",
        )
    return list(targets)


def initial_values(method: LoraMethod, files: WeightFiles, seed: int) -> Source:
    """The base's own weights; A uniform as PEFT draws it, B zero.

    A is a function of seed and name, so it does not depend on strategy, number of ranks or order of loading.
    """

    def read(name: str, rows: slice) -> Tensor:
        if ".lora_B." in name:
            return torch.zeros(_b_shape(name, method, files))[rows]
        if ".lora_A." in name:
            return _drawn(name, (method.rank, _base_shape(name, files)[1]), seed)[rows]
        return files.read(base_weight_name(name), rows)

    return read


def _b_shape(name: str, method: LoraMethod, files: WeightFiles) -> tuple[int, int]:
    return (_base_shape(name, files)[0], method.rank)


def _base_shape(adapter: str, files: WeightFiles) -> tuple[int, int]:
    rows, columns = files.shape(_module(adapter) + ".weight")
    return rows, columns


def _drawn(name: str, shape: tuple[int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
    )
    a_RD = torch.empty(shape)
    return nn.init.kaiming_uniform_(a_RD, a=math.sqrt(5), generator=generator)


def base_weight_name(name: str) -> str:
    """Name in the weight files of a frozen parameter of the adapted model."""
    return name.removeprefix(_PREFIX).replace(".base_layer.", ".")


def saved_name(name: str) -> str:
    """Name in adapter_model.safetensors of a trained parameter."""
    return name.replace(_ADAPTER, ".")


def rate_factors(model: PreTrainedModel, method: LoraMethod) -> Mapping[str, float]:  # noqa: ARG001 - as full.rate_factors
    """One rate for all."""
    return {}


def check_gradients(gradients: Mapping[str, Tensor]) -> None:
    """Raise when an adapter gets no gradient, or one that is not finite.

    Asked at an attempt's first step, and of B alone: while B is zero, as in a fresh adapter, the gradient of A is too.
    """
    dead = [name for name, norm in gradients.items() if ".lora_B." in name and not 0 < float(norm) < math.inf]
    if dead:
        raise UserError(
            "AdapterNotLearning",
            f"method.lora: {len(dead)} of {len(gradients) // 2} adapters got no finite, non-zero gradient in the "
            f"first step, such as {dead[0]}",
            details=tuple(dead[:20]),
        )


def table(model: PreTrainedModel) -> str:
    """What trains, one line per kind of projection."""
    adapters = list(trained_parameters(model))
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, parameter in adapters:
        kind = _module(name).rpartition(".")[2]
        kinds[kind] += 1
        sizes[kind] += parameter.numel()
    lines = [f"{kind}: {kinds[kind] // 2} adapters, {sizes[kind]:,} parameters" for kind in kinds]
    return f"{sum(sizes.values()):,} parameters: " + "; ".join(lines)


def adapter_tensors(
    method: LoraMethod,  # noqa: ARG001 - variants of LoRA save other parts
    names: list[str],
    trained: Callable[[str], Tensor],
) -> dict[str, Tensor]:
    """What adapter_model.safetensors holds, by PEFT's saved names; fp32, as trained."""
    return {saved_name(name): trained(name) for name in names}


def adapter_config(method: LoraMethod, names: list[str], *, base_name: str, revision: str | None) -> str:
    """PEFT's adapter_config.json for the trained parameters `names` of the base `base_name` at `revision`."""
    modules = sorted({_module(name).rpartition(".")[2] for name in names})
    values = _peft_config(method, modules, base_name).to_dict()
    # PEFT holds a set, whose order differs every time
    values |= {"target_modules": modules, "inference_mode": True, "revision": revision}
    return json.dumps(values, indent=2, sort_keys=True, default=str)


def result(
    method: LoraMethod, files: WeightFiles, names: list[str], trained: Callable[[str], Tensor]
) -> Callable[[str], Tensor]:
    """The base with the adapters added in: W + alpha / R * B A (Hu et al. 2021, section 4.1)."""
    factor = method.alpha / method.rank
    halves = pairs(names)

    def value(name: str) -> Tensor:
        weight_ED = files.read(name).float()
        if name not in halves:
            return weight_ED
        a_RD, b_ER = (trained(each) for each in halves[name])
        return weight_ED + factor * (b_ER @ a_RD)

    return value


def pairs(names: list[str]) -> dict[str, tuple[str, str]]:
    """Weight that an adapter changes -> its A and B, all by their names in the weight files or the checkpoint."""
    halves_a = [name for name in names if ".lora_A." in name]
    return {f"{_module(name)}.weight": (name, name.replace(".lora_A.", ".lora_B.")) for name in halves_a}


def _module(name: str) -> str:
    return name.removeprefix(_PREFIX).partition(".lora_")[0]


def _peft_config(method: LoraMethod, modules: list[str], base_name: str) -> LoraConfig:
    return LoraConfig(
        r=method.rank,
        lora_alpha=cast(int, method.alpha),  # a whole number in PEFT's signature; it only ever divides by the rank
        lora_dropout=method.dropout,
        target_modules=modules,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )
