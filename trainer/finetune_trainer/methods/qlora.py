"""Adapters on a base in four bits (Dettmers et al. 2023, arXiv 2305.14314): lora.py, with other frozen weights.

Quantised are the products of the layers, experts included. Embedding, norms, routers, output head and what is trained
whole keep the run's precision. Everything that is written afterwards rests on the quantised base, since that is what
the adapters were trained on.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_contract import QloraMethod
from finetune_trainer import nf4, targets
from finetune_trainer.expert_layout import is_fused, place_of
from finetune_trainer.methods import lora
from finetune_trainer.methods.lora import (
    adapter_config,
    adapter_tensors,
    check_gradients,
    rate_factors,
    table,
)
from finetune_trainer.methods.names import is_adapter, weight_of
from finetune_trainer.model import ALL_ROWS, Source, WeightFiles

__all__ = [
    "adapter_config", "adapter_tensors", "apply", "base", "check_gradients", "initial_values", "rate_factors",
    "result", "table",
]  # fmt: skip


def apply(model: PreTrainedModel, method: QloraMethod, *, base_name: str) -> PreTrainedModel:
    """`model` with adapters and with room for bytes in place of its large weights, on the meta device as it is.

    Raises: UserError as lora.apply, and when blocks do not fit the weights' rows.
    """
    parts = lora.parts_in(model)
    modules = dict(model.named_modules())  # under their own names, before they are wrapped
    adapted_model = lora.apply(model, method, base_name=base_name)
    block_size, is_double = method.quantization.block_size, method.quantization.double_quantization
    for name in targets.quantised(parts, method):
        if name in parts.linear:
            nf4.quantise(cast(nn.Linear, modules[name]), block_size, is_double=is_double)
        else:
            group, _, parameter = name.rpartition(".")
            _quantise_experts(modules[group], parameter, block_size, is_double=is_double)
    return adapted_model


def _quantise_experts(group: Any, parameter: str, block_size: int, *, is_double: bool) -> None:
    layout = nf4.quantise_parameter(group, parameter, block_size, is_double=is_double)

    def product(x_SD: Tensor, ends_X: Tensor) -> Tensor:
        return nf4.product(x_SD, nf4.parts_of(group, parameter), layout, ends_X)

    group.products = {**getattr(group, "products", {}), parameter: product}


def initial_values(method: QloraMethod, files: WeightFiles, seed: int) -> Source:
    """The base's weights, those of the layers' products as bytes; adapters as in lora.py.

    Each weight is read whole and quantised where it will be computed with, one at a time, whichever of its rows are
    asked for: so the bytes do not depend on who keeps which rows.
    """
    store = _Store(method, files)

    def frozen(name: str, rows: slice) -> Tensor:
        return store.bytes_of(name, rows) if nf4.weight_name(name) in store.names else files.read(name, rows)

    adapters = lora.values(method, store.whole, files.shape, seed)
    others = lora.values(method, frozen, files.shape, seed)
    return lambda name, rows: (adapters if is_adapter(name) else others)(name, rows)


def result(
    method: QloraMethod, files: WeightFiles, names: list[str], trained: Callable[[str], Tensor]
) -> Callable[[str], Tensor]:
    """The quantised base, made whole, with the adapters added in: the model that was trained."""
    return lora.merged(method, base(method, files), names, trained)


def base(method: QloraMethod, files: WeightFiles) -> Source:
    """The weights that the adapters were trained on, with the error of four bits."""
    store = _Store(method, files)

    def read(name: str, rows: slice) -> Tensor:
        place = place_of(name)
        if place is None or place.fused not in store.names:
            return store.whole(name, rows).cpu()
        return store.whole(place.fused, ALL_ROWS)[place.expert].chunk(place.parts)[place.part][rows].cpu()

    return read


class _Store:
    """The weights of a model, those in four bits made when they are asked for; the last two of them are kept.

    They are quantised on the GPU, if there is one: a CPU takes minutes for what takes a GPU seconds.
    """

    def __init__(self, method: QloraMethod, files: WeightFiles) -> None:
        self.names = frozenset(map(weight_of, targets.quantised(_parts_in_files(files), method)))
        self._settings = method.quantization
        self._files = files
        self._device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
        self._stored = lru_cache(maxsize=2)(self._store)
        self._whole = lru_cache(maxsize=2)(self._make_whole)

    def bytes_of(self, name: str, rows: slice) -> Tensor:
        """Rows of the bytes called `name`."""
        parts, _ = self._stored(nf4.weight_name(name))
        return nf4.part(parts, name)[rows]

    def whole(self, name: str, rows: slice) -> Tensor:
        """Rows of a weight, as products see it."""
        return self._whole(name)[rows] if name in self.names else self._files.read(name, rows)

    def _store(self, name: str) -> tuple[nf4.Stored, nf4.Layout]:
        shape = self._files.shape(name)
        layout = nf4.Layout(shape, self._settings.block_size, self._settings.double_quantization)
        return nf4.stored(self._files.read(name).to(self._device), layout), layout

    def _make_whole(self, name: str) -> Tensor:
        parts, layout = self._stored(name)
        return nf4.whole(parts, layout, torch.float32)


def _parts_in_files(files: WeightFiles) -> targets.Parts:
    """What the files hold the weights of, by the model's names; nothing is read."""
    linear: dict[str, int] = {}
    experts: dict[str, int] = {}
    others: list[str] = []
    for name in files.names:
        place, module = place_of(name), name.removesuffix(".weight")
        if place is not None or is_fused(name):
            experts[name if place is None else place.fused] = 0
        elif module.rpartition(".")[2] in (*targets.ATTENTION, *targets.MLP, targets.HEAD):
            linear[module] = 0
        else:
            others.append(module)
    return targets.Parts(linear=linear, experts=experts, others=tuple(others), tied=False)
