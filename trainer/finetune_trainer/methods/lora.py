"""Low-rank adapters in PEFT's modules (Hu et al. 2021, arXiv 2106.09685).

Shape letters: R adapter rank, D width of a projection's input, E of its output, X experts.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MethodType
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_contract import ALL_LINEAR, AdapterMethod
from finetune_trainer import expert_layout, experts, targets
from finetune_trainer.failures import UserError
from finetune_trainer.methods import dora
from finetune_trainer.methods.names import (
    HALF_A,
    HALF_B,
    MAGNITUDE,
    PREFIX,
    adapted,
    base_name,
    is_adapter,
    is_expert_parameter,
    saved_name,
    weight_of,
)
from finetune_trainer.methods.trained_table import trained_table
from finetune_trainer.model import ALL_ROWS, Source, WeightFiles, trained_parameters

_SHAPE = Callable[[str], tuple[int, ...]]


def apply(model: PreTrainedModel, method: AdapterMethod, *, base_name: str) -> PreTrainedModel:
    """`model` with adapters, on the meta device as it is; everything else is frozen, but modules that are saved whole.

    Raises: UserError when a name matches nothing, or something that cannot be trained.
    """
    parts = parts_in(model)
    try:
        targets.check(parts, method)
    except targets.TargetError as error:
        raise UserError(error.reason, str(error)) from error
    whole = [model.get_submodule(name) for name in targets.saved_modules(parts, method)]
    config = _peft_config(method, targets.adapted_modules(parts, method), base_name)
    config.modules_to_save = None  # trained themselves: PEFT would train a copy, and keep what it is a copy of
    adapted_model = cast(PreTrainedModel, get_peft_model(model, config, low_cpu_mem_usage=True))
    for module in whole:
        module.requires_grad_(True)
    _join_experts(adapted_model)
    if method.use_dora:
        dora.install(adapted_model)
    return adapted_model


def parts_in(model: PreTrainedModel) -> targets.Parts:
    """What `model` is made of."""
    linear: dict[str, int] = {}
    expert_parameters: dict[str, int] = {}
    others: list[str] = []
    groups = experts.modules(model)
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear):
            linear[name] = module.in_features
        elif module in groups:
            expert_parameters |= {f"{name}.{key}": parameter.shape[-1] for key, parameter in own.items()}
        elif own:
            others.append(name)
    return targets.Parts(
        linear=linear, experts=expert_parameters, others=tuple(others), tied=model.config.tie_word_embeddings
    )


def _join_experts(model: nn.Module) -> None:
    """Let the experts' grouped products find their adapters; see experts.py."""
    for module in model.modules():
        if isinstance(module, ParamWrapper):
            group = cast(Any, module.get_base_layer())
            group.adapters = {**getattr(group, "adapters", {}), module.parameter_name: _factors(module)}
            module.forward = MethodType(_pass_on, module)


def _pass_on(wrapper: Any, *arguments: Any) -> Tensor:
    """In place of PEFT's forward, which would add W and B A up first."""
    result: Tensor = wrapper.base_layer(*arguments)
    return result


def _factors(wrapper: Any) -> experts.Factors:
    """The adapter in the shapes of grouped products; B's columns count the experts within a rank, as PEFT has them."""

    def factors() -> tuple[Tensor, Tensor, float]:
        a_XRD = wrapper.lora_A["default"].weight.unflatten(0, (wrapper.num_experts, -1))
        b_XER = wrapper.lora_B["default"].weight.unflatten(1, (-1, wrapper.num_experts)).permute(2, 0, 1)
        return a_XRD, b_XER, wrapper.scaling["default"]

    return factors


def initial_values(method: AdapterMethod, files: WeightFiles, seed: int) -> Source:
    """The base's own weights; A uniform as PEFT draws it, B zero, DoRA's magnitudes the lengths of the base's rows."""
    return values(method, files.read, files.shape, seed)


def values(method: AdapterMethod, base: Source, shape: _SHAPE, seed: int) -> Source:
    """First values of adapters on the frozen weights `base`, whose names and shapes are the model's own.

    A is a function of seed and name, so it does not depend on strategy, number of ranks or order of loading.
    """

    def read(name: str, rows: slice) -> Tensor:
        if not is_adapter(name):
            return base(base_name(name), rows)
        part = adapted(name, method)
        if MAGNITUDE in name:
            return dora.lengths(base(weight_of(part), rows))
        if HALF_A in name:
            return _drawn(name, half_shapes(method, part, shape)[0], seed)[rows]
        return torch.zeros(half_shapes(method, part, shape)[1])[rows]

    return read


def half_shapes(method: AdapterMethod, part: str, shape: _SHAPE) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of A and B on `part`: [R, D] and [E, R], for experts [X R, D] and [E, R X]."""
    *count, outputs, inputs = shape(weight_of(part))
    rank = method.rank_of(part) * math.prod(count)
    return (rank, inputs), (outputs, rank)


def _drawn(name: str, shape: tuple[int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
    )
    a_RD = torch.empty(shape)
    return nn.init.kaiming_uniform_(a_RD, a=math.sqrt(5), generator=generator)


def rate_factors(model: PreTrainedModel, method: AdapterMethod) -> Mapping[str, float]:
    """LoRA+: B learns faster than A (Hayou et al. 2024, arXiv 2402.12354)."""
    if method.loraplus_lr_ratio == 1:
        return {}
    return {name: method.loraplus_lr_ratio for name, _ in trained_parameters(model) if HALF_B in name}


def check_gradients(gradients: Mapping[str, Tensor]) -> None:
    """Raise when an adapter gets no gradient, or one that is not finite.

    Asked at an attempt's first step, and not of A: while B is zero, as in a fresh adapter, the gradient of A is too.
    """
    asked = [name for name in gradients if HALF_B in name or MAGNITUDE in name]
    dead = [name for name in asked if not 0 < float(gradients[name]) < math.inf]
    if dead:
        raise UserError(
            "AdapterNotLearning",
            f"method.lora: {len(dead)} of {len(asked)} adapters got no finite, non-zero gradient in the "
            f"first step, such as {dead[0]}",
            details=tuple(dead[:20]),
        )


def table(model: PreTrainedModel) -> str:
    """What trains, one line per kind of module."""
    return trained_table(model)


def adapter_tensors(
    method: AdapterMethod,  # noqa: ARG001 - other methods may save other parts
    names: list[str],
    trained: Callable[[str], Tensor],
) -> dict[str, Tensor]:
    """What adapter_model.safetensors holds, by PEFT's saved names; fp32, as trained."""
    return {saved_name(name): trained(name) for name in names}


def adapter_config(method: AdapterMethod, names: list[str], *, base_name: str, revision: str | None) -> str:
    """PEFT's adapter_config.json for the trained parameters `names` of the base `base_name` at `revision`."""
    parts = dict.fromkeys(adapted(name, method) for name in names if is_adapter(name))
    config = _peft_config(method, [part for part in parts if not is_expert_parameter(part)], base_name).to_dict()
    # PEFT holds a set, whose order differs every time
    modules = sorted(config["target_modules"])
    return json.dumps(
        config | {"target_modules": modules, "inference_mode": True, "revision": revision},
        indent=2, sort_keys=True, default=str,
    )  # fmt: skip


def _peft_config(method: AdapterMethod, modules: list[str], base_name: str) -> LoraConfig:
    """`modules` are those that `all-linear` means."""
    is_all = method.targets == (ALL_LINEAR,)
    return LoraConfig(
        r=method.rank,
        lora_alpha=cast(int, method.alpha),  # a whole number in PEFT's signature; it only ever divides by the rank
        lora_dropout=method.dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in modules}) if is_all else list(method.targets),
        target_parameters=list(method.target_parameters) or None,
        rank_pattern=dict(method.rank_pattern),
        alpha_pattern=dict(method.alpha_pattern),
        modules_to_save=list(method.modules_to_save) or None,
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )


def result(
    method: AdapterMethod, files: WeightFiles, names: list[str], trained: Callable[[str], Tensor]
) -> Callable[[str], Tensor]:
    """The base with the adapters added in; see `merged`."""
    return merged(method, base(method, files), names, trained)


def base(method: AdapterMethod, files: WeightFiles) -> Source:  # noqa: ARG001 - as qlora.base
    """The weights that the adapters were trained on."""
    return files.read


def merged(
    method: AdapterMethod, base: Source, names: list[str], trained: Callable[[str], Tensor]
) -> Callable[[str], Tensor]:
    """W + s B A (Hu et al. 2021, section 4.1), with DoRA each row brought to its trained length; experts one by one."""
    halves = {weight_of(adapted(name, method)): name for name in names if HALF_A in name}
    trained = lru_cache(maxsize=4)(trained)  # the matrices of a layer's experts lie side by side, in one adapter

    def value(name: str) -> Tensor:
        if PREFIX + name in names:
            return trained(PREFIX + name)
        place = expert_layout.place_of(name)
        weight = name if place is None else place.fused
        base_ED = base(name, ALL_ROWS).float()
        if weight not in halves:
            return base_ED
        half_a = halves[weight]
        a_RD, b_ER = trained(half_a), trained(half_a.replace(HALF_A, HALF_B))
        factor = method.scaling_of(adapted(half_a, method))
        if place is not None or base_ED.ndim == 3:
            return base_ED + factor * _expert_product(a_RD, b_ER, place, method.rank_of(adapted(half_a, method)))
        sum_ED = base_ED + factor * (b_ER @ a_RD)
        if not method.use_dora:
            return sum_ED
        magnitude_E = trained(half_a.replace(HALF_A, MAGNITUDE))
        return magnitude_E[:, None] * sum_ED / dora.lengths(sum_ED)[:, None]

    return value


def _expert_product(a_RD: Tensor, b_ER: Tensor, place: expert_layout.Place | None, rank: int) -> Tensor:
    """B A of all experts [X, E, D], or that part of one expert's which lies at `place`."""
    a_XRD = a_RD.reshape(-1, rank, a_RD.shape[1])
    b_XER = b_ER.reshape(b_ER.shape[0], rank, -1).permute(2, 0, 1)
    if place is None:
        return b_XER @ a_XRD
    return (b_XER[place.expert] @ a_XRD[place.expert]).chunk(place.parts)[place.part]
