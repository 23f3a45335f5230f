"""What trains, as a table: how many modules of a kind, their shape and adapter, and their part in the whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import nn

from finetune_trainer.model import elements, trained_parameters


@dataclass(frozen=True, slots=True)
class _Row:
    kind: str
    shape: str
    rank: str
    scaling: str


def trained_table(model: nn.Module) -> str:
    """One line per kind, the largest first, below a line with the sums."""
    parameters: dict[_Row, int] = {}
    counts: dict[_Row, int] = {}
    for row, size in _adapters(model):
        parameters[row] = parameters.get(row, 0) + size
        counts[row] = counts.get(row, 0) + 1
    trained = sum(parameters.values())
    total = sum(elements(name, parameter) for name, parameter in model.named_parameters())
    lines = [
        f"{trained:,} of {total:,} parameters ({trained / total:.2%})",
        _line("kind", "count", "weight", "rank", "scaling", "parameters", "share"),
    ]
    for row in sorted(parameters, key=lambda row: -parameters[row]):
        share = f"{parameters[row] / trained:.1%}"
        lines.append(_line(row.kind, f"{counts[row]}", row.shape, row.rank, row.scaling, f"{parameters[row]:,}", share))
    return "\n".join(lines)


def _line(kind: str, *cells: str) -> str:
    widths = (5, 18, 4, 7, 13, 6)
    return f"  {kind:<22}" + " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _adapters(model: nn.Module) -> Iterator[tuple[_Row, int]]:
    """Each adapter, and each module that is trained whole, with the number of its parameters."""
    inside: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            own = [parameter for key, parameter in module.named_parameters() if not key.startswith("base_layer.")]
            inside.update(map(id, own))
            yield _adapter_row(name, module), sum(parameter.numel() for parameter in own)
    for name, parameter in trained_parameters(model):
        if id(parameter) not in inside:
            kind = ".".join(name.removesuffix(".weight").split(".")[-1:])
            yield _Row(kind, _shape(parameter.shape), "whole", ""), parameter.numel()


def _adapter_row(name: str, module: Any) -> _Row:
    kind, weight = name.rpartition(".")[2], [module.out_features, module.in_features]
    if isinstance(module, ParamWrapper):
        kind = f"experts.{module.parameter_name}"
        weight = [module.num_experts, *weight]
    return _Row(kind, _shape(weight), f"{module.r['default']}", f"{module.scaling['default']:g}")


def _shape(sizes: Any) -> str:
    return " x ".join(map(str, sizes))
