"""Models with adapters as the trainer makes them, moved as if trained, and as plain transformers and PEFT load them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from finetune_contract import LoraMethod, QloraMethod
from finetune_trainer import methods
from finetune_trainer.model import WeightFiles, load_config, materialise, skeleton, trained_parameters

IDS = torch.arange(40, 60)[None]
LORA: dict[str, Any] = {"type": "LoRA", "rank": 4, "alpha": 8, "dropout": 0.0, "targets": ("all-linear",)}
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


def method_of(**changes: Any) -> LoraMethod | QloraMethod:
    """LoRA of rank 4 on all linear modules, with `changes`."""
    values = LORA | changes
    return (QloraMethod if values["type"] == "QLoRA" else LoraMethod).model_validate(values)


@dataclass
class Adapted:
    """A model folder's model with adapters."""

    folder: Path
    method: Any
    model: Any

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return dict(trained_parameters(self.model))

    @torch.no_grad()
    def stir(self) -> "Adapted":
        """Move every trained parameter a little, as training would."""
        generator = torch.Generator().manual_seed(5)
        for parameter in self.trained.values():
            size = 0.02 * (parameter.abs().mean() + 0.5)
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
        return self

    def save_adapter(self, target: Path) -> Path:
        """Write it in PEFT's format, as export does."""
        module = methods.chosen(self.method)
        target.mkdir()
        tensors = module.adapter_tensors(self.method, list(self.trained), self._value)  # type: ignore[attr-defined]
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "adapter_model.safetensors")
        config = module.adapter_config(self.method, list(self.trained), base_name=str(self.folder), revision=None)  # type: ignore[attr-defined]
        (target / "adapter_config.json").write_text(config)
        return target

    def save_merged(self, target: Path) -> Path:
        """Write the whole model, as export does."""
        target.mkdir()
        files = WeightFiles(self.folder)
        value = methods.chosen(self.method).result(self.method, files, list(self.trained), self._value)
        save_file(
            {name: value(name).contiguous() for name in files.names}, target / "model.safetensors", {"format": "pt"}
        )
        shutil.copyfile(self.folder / "config.json", target / "config.json")
        return target

    def _value(self, name: str) -> Tensor:
        return self.trained[name].detach()


def adapted(folder: Path, method: Any) -> Adapted:
    """The model in `folder` with fresh adapters."""
    module = methods.chosen(method)
    model = module.apply(skeleton(load_config(str(folder))), method, base_name=str(folder))
    materialise(model, module.initial_values(method, WeightFiles(folder), seed=3), torch.device("cpu"))
    return Adapted(folder, method, model)


def plain(folder: Path, **options: Any) -> Any:
    """The model in `folder` as anyone loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def in_plain_peft(folder: Path, adapter: Path, **options: Any) -> Any:
    """The same with an adapter, by PEFT alone."""
    return PeftModel.from_pretrained(plain(folder, **options), adapter)


def logits(model: Any) -> Tensor:
    """Of one document, without the trainer's own attention arguments."""
    model.train(False).config._attn_implementation = "sdpa"
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def gradients(model: Any) -> dict[str, Tensor]:
    """Norm of each trained parameter's gradient after one backward pass."""
    model.train().config._attn_implementation = "sdpa"
    found = model(input_ids=IDS, use_cache=False).logits
    torch.autograd.backward(nn.functional.cross_entropy(found[0, :-1], IDS[0, 1:]))
    return {name: parameter.grad.norm() for name, parameter in trained_parameters(model) if parameter.grad is not None}
