"""What a run leaves behind: made from its last checkpoint, reopened, compared, and only then given its name.

Rank 0 alone works here, on the CPU and one tensor at a time, so it does not matter how the run was spread out.

Shape letters: P tokens of the test prompt, V vocabulary, R adapter rank, D width of a projection's input, E of its
output.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import safetensors.torch
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune_contract import AdapterMethod, Artifact, DatasetReport, Precision, QloraMethod, RunConfig
from finetune_contract.paths import ADAPTER, FULL_MODEL, MERGED_MODEL
from finetune_trainer import methods
from finetune_trainer.checkpoint import Checkpoint, Disk
from finetune_trainer.data.batch import MicroBatch
from finetune_trainer.distributed import World
from finetune_trainer.loss import supervised_logits
from finetune_trainer.methods import lora
from finetune_trainer.model import ALL_ROWS, COMPUTE_DTYPE, Source, WeightFiles
from finetune_trainer.stopping import Stop, on_main_unless_stopped
from finetune_trainer.strategies import Engine

log = logging.getLogger("finetune")

ArtifactKind = Literal["Adapter", "MergedModel", "Model"]

FILE_BYTES: Final = 2 * 2**30
"""A file of weights is closed when it reaches this size."""
PROMPT: Final = (9707, 11, 1879, 0, 108386, 3837, 99489, 6313)
"""`Hello, world!` and the same in Chinese, in Qwen3's vocabulary; what it says does not matter."""
TOLERANCE: Final = {Precision.FP32: 1e-3, Precision.BF16: 0.15, Precision.FP16: 0.05}
"""Root mean square of the logits' difference, in standard deviations of the logits. bf16 keeps 8 bits, and the
reference runs on another device with other kernels: the largest of a million differences reached 0.24 for 8B on an
H100, which is why the mean is judged. A missing or doubled adapter of a trained model differs by much more, and the
weights themselves are compared bit for bit."""


class ExportMismatchError(RuntimeError):
    """What was written is not what was trained."""


def prompt_ids(vocab_size: int) -> list[int]:
    """The test prompt, for a vocabulary of any size."""
    return [each % vocab_size for each in PROMPT]


@torch.no_grad()
def prompt_logits(engine: Engine, world: World) -> Tensor:
    """Logits [P, V] of the model in training for the test prompt, fp32; all ranks take part."""
    ids_P = torch.tensor(prompt_ids(engine.model.config.vocab_size))
    micro = MicroBatch(
        input_ids_1T=ids_P[None], position_ids_1T=torch.arange(len(ids_P))[None], document_offsets=(0, len(ids_P)),
        longest_document=len(ids_P), supervised_S=torch.arange(len(ids_P)), targets_S=torch.zeros_like(ids_P),
    ).to(str(world.device))  # fmt: skip
    engine.model.train(False)
    with engine.precision():
        logits_PV = supervised_logits(engine.module, micro, world.device)
    engine.model.train()
    return logits_PV.float().cpu()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run whose last step is saved."""

    config: RunConfig
    last: Checkpoint
    logits_PV: Tensor
    """Of the model in training, for the test prompt."""
    dataset: DatasetReport
    disk: Disk = field(default_factory=Disk)

    @property
    def base(self) -> WeightFiles:
        """The weights that training began with."""
        return WeightFiles(self.config.model_dir)

    def trained(self, name: str) -> Tensor:
        """A trained parameter, whole."""
        return self.last.weight(name, ALL_ROWS)


def exported(finished: Finished, world: World, stop: Stop) -> tuple[Artifact, ...]:
    """Write and check all artifacts of a run; the same answer on every rank. May be repeated.

    Raises: AgreedError on every rank when one cannot be written or is not what was trained; StopAgreedError.
    """
    return tuple(
        Artifact.model_validate_json(
            on_main_unless_stopped(world, stop, lambda make=make: make(finished).model_dump_json())  # type: ignore[misc]
        )
        for make in _makers(finished.config)
    )


def _makers(config: RunConfig) -> list[Callable[[Finished], Artifact]]:
    if not isinstance(config.method, AdapterMethod):
        return [full_model]
    return [adapter, merged_model] if config.merge_adapter else [adapter]


def adapter(finished: Finished) -> Artifact:
    """The adapter alone, in PEFT's format; weights in fp32 as they were trained."""
    config, last = finished.config, finished.last
    assert isinstance(config.method, AdapterMethod)
    tensors = lora.adapter_tensors(config.method, last.names, finished.trained)
    with _appearing(Path(config.output_dir) / ADAPTER, finished.disk) as folder:
        finished.disk.write(folder / "adapter_model.safetensors", _serialised(tensors))
        description = lora.adapter_config(config.method, last.names, base_name=config.model_dir, revision=None)
        finished.disk.write(folder / "adapter_config.json", description.encode())
        _check_adapter(folder, tensors)
        model = _model_in(config.model_dir, config.precision)
        if isinstance(config.method, QloraMethod):
            _put(model, methods.chosen(config.method).base(config.method, finished.base))
        _check_logits(PeftModel.from_pretrained(model, folder), finished, "adapter")
        finished.disk.write(folder / "README.md", model_card(finished, "Adapter").encode())
    return _artifact("Adapter", Path(config.output_dir) / ADAPTER)


def merged_model(finished: Finished) -> Artifact:
    """The base with the adapter added in, in the base's own dtypes."""
    return _whole_model(finished, "MergedModel", MERGED_MODEL)


def full_model(finished: Finished) -> Artifact:
    """Every weight as it was trained, rounded to the dtypes that the base has."""
    return _whole_model(finished, "Model", FULL_MODEL)


def _whole_model(finished: Finished, kind: ArtifactKind, name: str) -> Artifact:
    target, method, base = Path(finished.config.output_dir) / name, finished.config.method, finished.base
    result = methods.chosen(method).result(method, base, finished.last.names, finished.trained)

    def value(name: str) -> Tensor:
        return result(name).to(base.dtype(name))

    with _appearing(target, finished.disk) as folder:
        _copy_descriptions(Path(finished.config.model_dir), folder)
        _write_weights(folder, finished.base.names, value, finished.disk)
        _check_inventory(folder, finished.base)
        _check_logits(_model_in(folder, finished.config.precision), finished, name)
        finished.disk.write(folder / "README.md", model_card(finished, kind).encode())
    return _artifact(kind, target)


def _copy_descriptions(source: Path, folder: Path) -> None:
    """Configuration and tokenizer; by their endings, so that no pickle ever comes along."""
    for file in sorted(source.iterdir()):
        is_description = file.suffix in (".json", ".txt", ".jinja", ".model")
        if is_description and not file.name.endswith((".safetensors.index.json", "COMPLETE.json")):
            shutil.copyfile(file, folder / file.name)


def _write_weights(folder: Path, names: list[str], value: Callable[[str], Tensor], disk: Disk) -> None:
    """Safetensors files of bounded size and transformers' index of them."""
    parts: list[list[str]] = [[]]
    pending: dict[str, Tensor] = {}
    for name in names:
        pending[name] = value(name).contiguous()
        parts[-1].append(name)
        if sum(each.nbytes for each in pending.values()) >= FILE_BYTES:
            disk.write(folder / f"part-{len(parts)}", _serialised(pending))
            pending, parts = {}, [*parts, []]
    if pending:
        disk.write(folder / f"part-{len(parts)}", _serialised(pending))
    files = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    for number, file in enumerate(files, start=1):
        os.rename(folder / f"part-{number}", folder / file)
    index = {
        "metadata": {"total_size": sum((folder / file).stat().st_size for file in files)},
        "weight_map": {name: file for file, part in zip(files, parts, strict=True) for name in part},
    }
    disk.write(folder / "model.safetensors.index.json", json.dumps(index, indent=1).encode())


def _serialised(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def _check_adapter(folder: Path, expected: dict[str, Tensor]) -> None:
    reopened = WeightFiles(folder)
    assert sorted(reopened.names) == sorted(expected), "every adapter is in the file"
    for name, tensor in expected.items():
        assert torch.equal(reopened.read(name), tensor), f"{name} is as it was trained"
        assert bool(tensor.isfinite().all()), f"{name} is finite"
        assert float(tensor.norm()) > 0, f"{name} is not zero"


def _check_inventory(folder: Path, base: WeightFiles) -> None:
    reopened = WeightFiles(folder)
    assert sorted(reopened.names) == sorted(base.names), "the same tensors as in the base"
    for name in base.names:
        assert reopened.shape(name) == base.shape(name), f"{name} has its shape"
        assert reopened.dtype(name) == base.dtype(name), f"{name} has its dtype"
        assert bool(reopened.read(name).isfinite().all()), f"{name} is finite"


def _model_in(folder: str | Path, precision: Precision) -> PreTrainedModel:
    """Loaded as any user would, in the precision of the run, on the CPU."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=COMPUTE_DTYPE[precision], local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return model


@torch.no_grad()
def _put(model: PreTrainedModel, source: Source) -> None:
    """Give `model` the weights that the adapter was trained on."""
    for name, parameter in model.named_parameters():
        parameter.copy_(source(name, ALL_ROWS))


@torch.no_grad()
def _check_logits(model: PreTrainedModel | PeftModel, finished: Finished, what: str) -> None:
    """Raise when the reopened artifact does not answer as the model in training does."""
    ids_1P = torch.tensor([prompt_ids(finished.logits_PV.shape[-1])])
    logits_PV = model.train(False)(input_ids=ids_1P, use_cache=False).logits[0].float()
    difference = float((logits_PV - finished.logits_PV).square().mean().sqrt() / finished.logits_PV.std())
    tolerance = TOLERANCE[finished.config.precision]
    log.info("%s reopened: logits differ by %.2g standard deviations (allowed %g)", what, difference, tolerance)
    if not difference <= tolerance:
        raise ExportMismatchError(
            f"the exported {what} answers differently from the model in training: {difference:.3g} standard "
            f"deviations of its logits, {tolerance} are allowed"
        )


@contextmanager
def _appearing(target: Path, disk: Disk) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` once everything in it is on the disk."""
    growing = target.with_name(f".growing-{target.name}")
    shutil.rmtree(growing, ignore_errors=True)
    disk.make_folder(growing)
    yield growing
    if target.exists():
        disk.remove(target)
    disk.rename(growing, target)


def _artifact(kind: ArtifactKind, folder: Path) -> Artifact:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    size = sum(path.stat().st_size for path in files)
    log.info("artifact=%s kind=%s bytes=%d", folder, kind, size)
    return Artifact(kind=kind, path=str(folder), digest=f"sha256:{digest.hexdigest()}", bytes=size)


def model_card(finished: Finished, kind: ArtifactKind) -> str:
    """README.md: what this is, from what data and with what settings it was made."""
    config, state, dataset = finished.config, finished.last.state, finished.dataset
    front = {"base_model": config.model_dir, "pipeline_tag": "text-generation", "tags": ["qwen3", config.method.type]}
    if kind == "Adapter":
        front["library_name"] = "peft"
    settings = json.dumps(state.settings, indent=2, sort_keys=True)
    validation = "" if state.evaluation.loss is None else f", on held-out rows {state.evaluation.loss:.4f}"
    return f"""---
{yaml_lines(front)}
---
# {config.run.name}

{kind} trained from `{Path(config.model_dir).name}` in {state.step} steps over {state.tokens:,} tokens.
Mean loss of the last step {state.loss:.4f}{validation}.

Data: {dataset.rows:,} rows, {dataset.supervised_tokens:,} of {dataset.tokens:,} tokens supervised;
digest `{dataset.digest}`.

## Settings
```json
{settings}
```
"""


def yaml_lines(values: dict[str, Any]) -> str:
    """Flat YAML; JSON's texts and lists are YAML as well."""
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items())
