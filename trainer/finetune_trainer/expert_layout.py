"""The two layouts of a mixture's experts, and the way between their names.

In a model's weight files every expert has its own matrices; in transformers' modules those of a layer lie in one
tensor, so that one grouped product serves all of them. Shape letters: X experts, I inner width, D hidden width.

    model.layers.0.mlp.experts.7.gate_proj.weight [I, D]
    model.layers.0.mlp.experts.7.up_proj.weight   [I, D]    ->  model.layers.0.mlp.experts.gate_up_proj [X, 2 I, D]
    model.layers.0.mlp.experts.7.down_proj.weight [D, I]    ->  model.layers.0.mlp.experts.down_proj    [X, D, I]

The same as transformers' own conversion (conversion_mapping.py, "qwen2_moe").
"""

import re
from typing import NamedTuple

_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_FUSED = re.compile(r"(?P<experts>.*\.experts)\.(?P<kind>gate_up_proj|down_proj)")
_SINGLE = re.compile(r"(?P<experts>.*\.experts)\.(?P<number>\d+)\.(?P<part>gate_proj|up_proj|down_proj)\.weight")


class Place(NamedTuple):
    """Where one expert's matrix lies in the tensor of all of them."""

    fused: str
    expert: int
    part: int
    parts: int
    """Number `part` of so many equal parts of the expert's rows."""


def is_fused(name: str) -> bool:
    """Whether `name` is the parameter of all experts of a layer."""
    return _FUSED.fullmatch(name) is not None


def single_names(fused: str, expert: int) -> tuple[str, ...]:
    """The names in the files of the matrices that make up `expert`'s rows of `fused`, from top to bottom."""
    match = _FUSED.fullmatch(fused)
    assert match is not None, "asked for fused names alone"
    return tuple(f"{match['experts']}.{expert}.{part}.weight" for part in _PARTS[match["kind"]])


def place_of(name: str) -> Place | None:
    """Where the matrix `name` of the files lies in the model; None when it is no expert's."""
    match = _SINGLE.fullmatch(name)
    if match is None:
        return None
    kind, parts = next((kind, parts) for kind, parts in _PARTS.items() if match["part"] in parts)
    fused = f"{match['experts']}.{kind}"
    return Place(fused, int(match["number"]), parts.index(match["part"]), len(parts))
