"""The model: its shape first, without memory, and then its weights, read slice by slice by whoever needs them.

Every strategy starts from the same skeleton, whose parameters lie on the meta device, and asks a `Source` for exactly
the rows that it keeps. So a model that does not fit one host is never held by one, let alone once per rank.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeDecoderLayer

from finetune_contract import Precision
from finetune_trainer import expert_layout, pulse
from finetune_trainer.attention import ATTENTION
from finetune_trainer.experts import EXPERTS, count_load
from finetune_trainer.failures import UserError

ModelConfig = Qwen3Config | Qwen3MoeConfig

Source = Callable[[str, slice], Tensor]
"""Rows of the named parameter, on the CPU: `source("model.norm.weight", slice(None))`. Names as in the model."""

ALL_ROWS = slice(None)

COMPUTE_DTYPE = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16, Precision.FP32: torch.float32}


class WeightFiles:
    """The safetensors files of a model folder, mapped into memory and read by name and rows.

    Experts are found under their names in the files, one matrix each, and under those of the model, all in one tensor,
    whose rows are the experts: see expert_layout.
    """

    def __init__(self, model_dir: str | Path) -> None:
        files = sorted(Path(model_dir).glob("*.safetensors"))
        if not files:
            raise UserError("ModelNotFound", f"model: {model_dir} holds no .safetensors file; only these are read")
        handles: list[Any] = [safe_open(file, framework="pt") for file in files]
        self._handle_of = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118
        places = (expert_layout.place_of(name) for name in self._handle_of)
        self._experts = Counter(place.fused for place in places if place is not None and place.part == 0)

    @property
    def names(self) -> list[str]:
        """All tensors, in the order of the files."""
        return list(self._handle_of)

    def read(self, name: str, rows: slice = ALL_ROWS) -> Tensor:
        """Rows of the tensor `name`, as stored."""
        pulse.own.beat()
        if self._is_apart(name):
            return self._joined(name, rows)
        handle = self._handle(name)
        tensor: Tensor = handle.get_tensor(name) if rows == ALL_ROWS else handle.get_slice(name)[rows]
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor `name`, from the file's header."""
        if self._is_apart(name):
            parts = [self.shape(part) for part in expert_layout.single_names(name, 0)]
            return (self._experts[name], sum(rows for rows, _ in parts), parts[0][1])
        return tuple(self._handle(name).get_slice(name).get_shape())

    def bytes_of(self, names: Iterable[str]) -> int:
        """Size of these tensors, by the files' headers."""
        return sum(math.prod(self.shape(name)) * self.dtype(name).itemsize for name in names)

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of the tensor `name`, without reading more than a row."""
        return self.read(name, slice(0, 1)).dtype

    def _handle(self, name: str) -> Any:
        if name not in self._handle_of:
            raise UserError("ModelIncomplete", f"model: the weight files lack the tensor {name}")
        return self._handle_of[name]

    def _is_apart(self, name: str) -> bool:
        """Whether `name` stands for matrices that the files hold one by one."""
        return name in self._experts and name not in self._handle_of

    def _joined(self, name: str, rows: slice) -> Tensor:
        _, height, width = self.shape(name)
        chosen = range(self._experts[name])[rows]
        joined = torch.empty(len(chosen), height, width, dtype=self.dtype(expert_layout.single_names(name, 0)[0]))
        for matrix, expert in zip(joined, chosen, strict=True):
            torch.cat([self.read(part) for part in expert_layout.single_names(name, expert)], out=matrix)
        return joined


def load_config(model_dir: str) -> ModelConfig:
    """The model's config.json.

    Raises: UserError when it is missing or not that of a Qwen3 model.
    """
    if not (Path(model_dir) / "config.json").is_file():
        raise UserError("ModelNotFound", f"model: {model_dir}/config.json does not exist; prepare the model first")
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    if not isinstance(config, Qwen3Config | Qwen3MoeConfig):
        kind = getattr(config, "model_type", "unknown")
        raise UserError("ModelNotSupported", f"model: type {kind!r} is not supported; 'qwen3' and 'qwen3_moe' are")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) or getattr(
        config, "use_sliding_window", False
    ):
        raise UserError("ModelNotSupported", "model: config.json asks for sliding-window attention; not supported")
    return config


def skeleton(config: ModelConfig) -> PreTrainedModel:
    """The model with its parameters on the meta device and its buffers (rotary frequencies) real."""
    config._attn_implementation = ATTENTION
    config._experts_implementation = EXPERTS
    model: PreTrainedModel
    with init_empty_weights(include_buffers=False):
        model = Qwen3MoeForCausalLM(config) if isinstance(config, Qwen3MoeConfig) else Qwen3ForCausalLM(config)
    model.tie_weights()
    count_load(model)
    return model


def recompute_activations(model: PreTrainedModel) -> None:
    """Recompute every decoder layer in the backward pass."""
    # transformers before 5.24 know it by its old name alone
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    # non-reentrant: gradients reach adapters although the input of the first layer needs none
    enable({"use_reentrant": False})


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The model's decoder layers, whatever is wrapped around them."""
    return [module for module in model.modules() if isinstance(module, Qwen3DecoderLayer | Qwen3MoeDecoderLayer)]


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are trained, in the model's own order; tied ones once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def elements(name: str, parameter: Tensor) -> int:
    """How many weights a parameter stands for: bytes hold two each, and none where they are scales (see nf4.py)."""
    if parameter.dtype is not torch.uint8:
        return parameter.numel()
    return 0 if "_scales" in name else 2 * parameter.numel()


def set_dtypes(model: nn.Module, *, trained: torch.dtype, frozen: torch.dtype) -> None:
    """Give the meta parameters the dtypes they will be materialised with; those of integers stay integers."""
    for parameter in model.parameters():
        assert parameter.is_meta, "dtypes are set before there are values"
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(trained if parameter.requires_grad else frozen)


def materialise(module: nn.Module, source: Source, device: torch.device, *, prefix: str = "") -> None:
    """Give every meta parameter below `module` its whole value from `source`; tied parameters stay tied.

    `prefix` is the module's own name in the model, with its dot.
    """
    made: dict[int, nn.Parameter] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.is_meta:
            continue
        if id(parameter) not in made:
            stored = source(prefix + name, ALL_ROWS)
            # a copy of what will be trained: the source may be asked again, and what it gives is its mapped file
            value = stored.to(device=device, dtype=parameter.dtype, copy=parameter.requires_grad)
            check_shape(prefix + name, value, tuple(parameter.shape))
            made[id(parameter)] = nn.Parameter(value.contiguous(), requires_grad=parameter.requires_grad)
        owner, _, key = name.rpartition(".")
        module.get_submodule(owner)._parameters[key] = made[id(parameter)]


def move_buffers(model: nn.Module, device: torch.device) -> None:
    """Bring the buffers to the device; they have been real all the time."""
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(device)


def check_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    """Raise a UserError when a weight file and config.json disagree."""
    if tuple(value.shape) != expected:
        raise UserError(
            "ModelInconsistent",
            f"model: tensor {name} has shape {list(value.shape)}, config.json asks for {list(expected)}",
        )
