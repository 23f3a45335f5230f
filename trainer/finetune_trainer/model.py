"""The model: its shape first, without memory, and then its weights, read slice by slice by whoever needs them.

Every strategy starts from the same skeleton, whose parameters lie on the meta device, and asks a `Source` for exactly
the rows that it keeps. So a model that does not fit one host is never held by one, let alone once per rank.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from finetune_contract import Precision
from finetune_trainer.attention import ATTENTION
from finetune_trainer.failures import UserError

Source = Callable[[str, slice], Tensor]
"""Rows of the named parameter, on the CPU: `source("model.norm.weight", slice(None))`. Names as in the model."""

ALL_ROWS = slice(None)

COMPUTE_DTYPE = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16, Precision.FP32: torch.float32}


class WeightFiles:
    """The safetensors files of a model folder, mapped into memory and read by name and rows."""

    def __init__(self, model_dir: str | Path) -> None:
        files = sorted(Path(model_dir).glob("*.safetensors"))
        if not files:
            raise UserError("ModelNotFound", f"model: {model_dir} holds no .safetensors file; only these are read")
        handles: list[Any] = [safe_open(file, framework="pt") for file in files]
        self._handle_of = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118

    @property
    def names(self) -> list[str]:
        """All tensors, in the order of the files."""
        return list(self._handle_of)

    def read(self, name: str, rows: slice = ALL_ROWS) -> Tensor:
        """Rows of the tensor `name`, as stored."""
        if name not in self._handle_of:
            raise UserError("ModelIncomplete", f"model: the weight files lack the tensor {name}")
        handle = self._handle_of[name]
        tensor: Tensor = handle.get_tensor(name) if rows == ALL_ROWS else handle.get_slice(name)[rows]
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor `name`, from the file's header."""
        if name not in self._handle_of:
            raise UserError("ModelIncomplete", f"model: the weight files lack the tensor {name}")
        return tuple(self._handle_of[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of the tensor `name`, without reading more than a row."""
        return self.read(name, slice(0, 1)).dtype


def load_config(model_dir: str) -> Qwen3Config:
    """The model's config.json.

    Raises: UserError when it is missing or not that of a dense Qwen3 model.
    """
    if not (Path(model_dir) / "config.json").is_file():
        raise UserError("ModelNotFound", f"model: {model_dir}/config.json does not exist; prepare the model first")
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    if not isinstance(config, Qwen3Config):
        kind = getattr(config, "model_type", "unknown")
        raise UserError("ModelNotSupported", f"model: type {kind!r} is not supported; dense Qwen3 (type 'qwen3') is")
    if "sliding_attention" in (config.layer_types or ()):
        raise UserError("ModelNotSupported", "model: config.json asks for sliding-window attention; not supported")
    return config


def skeleton(config: Qwen3Config) -> Qwen3ForCausalLM:
    """The model with its parameters on the meta device and its buffers (rotary frequencies) real."""
    config._attn_implementation = ATTENTION
    with init_empty_weights(include_buffers=False):
        model = Qwen3ForCausalLM(config)
    model.tie_weights()
    return model


def recompute_activations(model: PreTrainedModel) -> None:
    """Recompute every decoder layer in the backward pass."""
    # transformers before 5.24 know it by its old name alone
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    # non-reentrant: gradients reach adapters although the input of the first layer needs none
    enable({"use_reentrant": False})


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The model's decoder layers, whatever is wrapped around them."""
    return [module for module in model.modules() if type(module).__name__ == "Qwen3DecoderLayer"]


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are trained, in the model's own order; tied ones once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def set_dtypes(model: nn.Module, *, trained: torch.dtype, frozen: torch.dtype) -> None:
    """Give the meta parameters the dtypes they will be materialised with."""
    for parameter in model.parameters():
        assert parameter.is_meta, "dtypes are set before there are values"
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
            value = source(prefix + name, ALL_ROWS).to(device=device, dtype=parameter.dtype)
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
