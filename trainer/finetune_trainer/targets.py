"""Which parts of a model an adapter method reaches, by name, and whether that can work.

Needs no torch: the preparation asks with the names that a model's config.json promises, the trainer with those that the
model has. Names match as PEFT matches them: a target, or a key of a pattern, is a name's last parts; a module to save
is the end of a name.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from finetune_contract import ALL_LINEAR, AdapterMethod, ModelFacts, QloraMethod

HEAD = "lm_head"
EMBEDDING = "model.embed_tokens"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
EXPERTS = ("gate_up_proj", "down_proj")
NORMS = ("self_attn.q_norm", "self_attn.k_norm", "input_layernorm", "post_attention_layernorm")


class TargetError(ValueError):
    """A name that matches nothing, or something that must not be trained; `reason` is CamelCase."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a model is made of, by full names."""

    linear: dict[str, int]
    """Linear modules, and the width of their inputs."""
    experts: dict[str, int]
    """Parameters with a row of matrices, one for each expert, and the width of their inputs."""
    others: tuple[str, ...]
    """Other modules that own weights: norms, embedding, routers."""
    tied: bool
    """Whether embedding and output head are one weight."""


def parts_of(facts: ModelFacts) -> Parts:
    """What transformers builds for a Qwen3 of this shape.

    Written down rather than read off a model: building one costs the preparation more time than tokenizing. A test
    holds the two together.
    """
    hidden, query = facts.hidden_size, facts.num_attention_heads * facts.head_dim
    linear: dict[str, int] = {}
    experts: dict[str, int] = {}
    others = [EMBEDDING]
    for number in range(facts.num_layers):
        layer = f"model.layers.{number}"
        linear |= {f"{layer}.self_attn.{name}": query if name == "o_proj" else hidden for name in ATTENTION}
        if facts.experts is not None and number not in facts.experts.dense_layers:
            inner = facts.experts.intermediate_size
            experts |= {f"{layer}.mlp.experts.{name}": inner if name == "down_proj" else hidden for name in EXPERTS}
            others.append(f"{layer}.mlp.gate")
        else:
            inner = facts.intermediate_size
            linear |= {f"{layer}.mlp.{name}": inner if name == "down_proj" else hidden for name in MLP}
        others += [f"{layer}.{name}" for name in NORMS]
    others.append("model.norm")
    return Parts(linear=linear | {HEAD: hidden}, experts=experts, others=tuple(others), tied=facts.tied_embeddings)


def adapted_modules(parts: Parts, method: AdapterMethod) -> list[str]:
    """The linear modules that get an adapter."""
    if method.targets == (ALL_LINEAR,):
        return [name for name in _adaptable(parts) if name != HEAD]
    return [name for name in _adaptable(parts) if is_named(name, method.targets)]


def _adaptable(parts: Parts) -> list[str]:
    """Of a mixture, attention's alone: there PEFT takes the name of a dense layer's `gate_proj` for the experts'."""
    return [name for name in parts.linear if not (parts.experts and name.rpartition(".")[2] in MLP)]


def adapted_parameters(parts: Parts, method: AdapterMethod) -> list[str]:
    """The experts' parameters that get adapters."""
    return [name for name in parts.experts if is_named(name, method.target_parameters)]


def saved_modules(parts: Parts, method: AdapterMethod) -> list[str]:
    """The modules that are trained whole."""
    return [name for name in (*parts.linear, *parts.others) if name.endswith(method.modules_to_save)]


def quantised(parts: Parts, method: QloraMethod) -> dict[str, int]:
    """What is stored in four bits, and the width of its inputs: the layers' products but those trained whole."""
    kept = {HEAD, *saved_modules(parts, method)}
    return {name: width for name, width in (parts.linear | parts.experts).items() if name not in kept}


def check(parts: Parts, method: AdapterMethod) -> None:
    """Raise a TargetError with what exists when a name matches nothing, or what it matches cannot be trained."""
    _check_words(method)
    modules, parameters = adapted_modules(parts, method), adapted_parameters(parts, method)
    _check_known("targets", method.targets, _adaptable(parts), _named, "linear module", beside=_targets_hint(parts))
    _check_known("targetParameters", method.target_parameters, parts.experts, _named, "parameter of all experts")
    adapted = [*modules, *parameters]
    for field, pattern in (("rankPattern", method.rank_pattern), ("alphaPattern", method.alpha_pattern)):
        _check_known(field, pattern, adapted, _pattern, "module with an adapter")
    ends = (*parts.linear, *parts.others)
    _check_known("modulesToSave", method.modules_to_save, ends, str.endswith, "module with weights")
    _check_ties(parts, modules, saved_modules(parts, method))
    both = sorted(set(modules) & set(saved_modules(parts, method)))
    if both:
        raise TargetError(
            "TargetTwice",
            f"method.lora.modulesToSave: {both[0]} has an adapter as well; leave it out there or in targets",
        )
    if isinstance(method, QloraMethod):
        _check_blocks(quantised(parts, method), method.quantization.block_size)


def _check_words(method: AdapterMethod) -> None:
    if ALL_LINEAR in method.targets and len(method.targets) > 1:
        others = ", ".join(each for each in method.targets if each != ALL_LINEAR)
        raise TargetError(
            "TargetNotFound", f"method.lora.targets: {ALL_LINEAR} stands alone, and {others} beside it; leave one out"
        )


def _check_known(
    field: str,
    asked: Iterable[str],
    known: Iterable[str],
    matches: Callable[[str, str], object],
    kind: str,
    beside: str = "",
) -> None:
    names = list(known)
    for each in asked:
        if each != ALL_LINEAR and not any(matches(name, each) for name in names):
            kinds = _kinds(names)
            close = difflib.get_close_matches(each, kinds, n=1)
            allowed = f"allowed are {', '.join(kinds)}" if kinds else "it has none"
            raise TargetError(
                "TargetNotFound",
                f"method.lora.{field}: {each} is no {kind} of the model; {allowed}{beside}"
                + (f"; did you mean {close[0]}?" if close else ""),
            )


def _targets_hint(parts: Parts) -> str:
    hint = f", or {ALL_LINEAR} alone"
    if not parts.experts:
        return hint
    return f"{hint}; experts are reached by targetParameters: {', '.join(_kinds(parts.experts))}"


def _check_ties(parts: Parts, modules: Sequence[str], saved: Sequence[str]) -> None:
    if parts.tied and HEAD in modules:
        raise TargetError(
            "TargetTied",
            f"method.lora.targets: {HEAD} shares its weight with the token embedding in this model, and an adapter on "
            "it would be lost or doubled when merged; leave it out",
        )
    if parts.tied and {HEAD, EMBEDDING} & set(saved):
        raise TargetError(
            "TargetTied",
            "method.lora.modulesToSave: token embedding and lm_head are one weight in this model, and saving one of "
            "them would part the two; leave it out, or take type Full",
        )


def _check_blocks(widths: dict[str, int], block_size: int) -> None:
    for name, width in widths.items():
        if width % block_size:
            raise TargetError(
                "BlockSizeDoesNotFit",
                f"method.quantization.blockSize: {block_size} does not divide the {width} inputs of {name}; take "
                f"{_largest_block(width)}",
            )


def _largest_block(width: int) -> str:
    return next((str(size) for size in (512, 256, 128, 64) if width % size == 0), "type LoRA, since no size does")


def is_named(name: str, targets: Iterable[str]) -> bool:
    """Whether one of `targets` means `name`."""
    return any(_named(name, target) for target in targets)


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _pattern(name: str, key: str) -> bool:
    return re.match(rf"(.*\.)?({key})$", name) is not None


def _kinds(names: Iterable[str]) -> list[str]:
    """Names without the layers' numbers: `experts.down_proj`, `q_proj`, `norm`."""
    kinds = dict.fromkeys(
        ".".join(name.split(".")[-2:]) if ".experts." in name else name.rpartition(".")[2] for name in names
    )
    return sorted(kinds)
