"""Weight files: written part by part, and held against what they should be."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from finetune_trainer.checkpoint import Disk
from finetune_trainer.model import WeightFiles

FILE_BYTES: Final = 2 * 2**30
"""A file of weights is closed before it grows beyond this size, unless it holds a single tensor; so much is held in
memory."""

Value = Callable[[str], Tensor]
"""A weight by its name."""


class ExportMismatchError(RuntimeError):
    """What was written is not what was trained."""


def write_tensors(file: Path, tensors: Mapping[str, Tensor], disk: Disk) -> None:
    """One safetensors file, marked as PyTorch's."""
    disk.write_tensors(file, tensors, metadata={"format": "pt"})


def write_weights(
    folder: Path, names: Sequence[str], value: Value, disk: Disk, *, file_bytes: int = FILE_BYTES
) -> None:
    """A model's weights in safetensors files of bounded size, named and listed as transformers does."""
    parts: list[list[str]] = [[]]
    pending: dict[str, Tensor] = {}

    def flush() -> None:
        write_tensors(folder / f"part-{len(parts)}", pending, disk)
        pending.clear()

    for name in names:
        tensor = value(name).contiguous()
        if pending and sum(each.nbytes for each in pending.values()) + tensor.nbytes > file_bytes:
            flush()
            parts.append([])
        pending[name] = tensor
        parts[-1].append(name)
    flush()
    _name_parts(folder, parts, disk)


def _name_parts(folder: Path, parts: list[list[str]], disk: Disk) -> None:
    """How many files there are is known only at the end."""
    if len(parts) == 1:
        os.rename(folder / "part-1", folder / "model.safetensors")
        return
    files = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    for number, file in enumerate(files, start=1):
        os.rename(folder / f"part-{number}", folder / file)
    written = WeightFiles(folder)
    index = {
        "metadata": {"total_size": sum(written.read(name).nbytes for name in written.names)},
        "weight_map": {name: file for file, part in zip(files, parts, strict=True) for name in part},
    }
    disk.write(folder / "model.safetensors.index.json", json.dumps(index, indent=1).encode())


def check_equal(written: WeightFiles, expected: Mapping[str, Tensor]) -> None:
    """Raise unless the reopened files hold exactly these tensors, each of them finite and not zero."""
    check_names(written.names, expected)
    for name, tensor in expected.items():
        check_same(name, written.read(name), tensor)
        norm = float(tensor.norm())
        if not 0 < norm < math.inf:
            raise ExportMismatchError(f"{name}: its norm is {norm}, so it has learnt nothing or is broken")


def check_names(found: Iterable[str], expected: Iterable[str]) -> None:
    """Raise unless these are the same tensors."""
    surplus, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    if surplus or missing:
        raise ExportMismatchError(
            f"{len(missing)} tensors missing {missing[:3]}, {len(surplus)} too many {surplus[:3]}"
        )


def check_same(name: str, written: Tensor, expected: Tensor) -> None:
    """Raise unless the two are the same, bit for bit."""
    if written.dtype != expected.dtype or not torch.equal(written, expected):
        raise ExportMismatchError(f"{name}: what was reopened is not what was written")


def check_rounded(name: str, written: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Raise unless `written` is the fp32 tensor `exact`, rounded once to the nearest number of `dtype`, and finite."""
    if (written.dtype, written.shape) != (dtype, exact.shape):
        raise ExportMismatchError(
            f"{name}: {written.dtype} {list(written.shape)} instead of {dtype} {list(exact.shape)}"
        )
    wrong = int((~written.isfinite()).sum())
    if not torch.equal(written, exact.to(dtype)):
        # half a unit in the last place; what is added covers fp32 sums taken in another order, and subnormal numbers
        limits = torch.finfo(dtype)
        allowed = 0.5 * limits.eps * exact.abs() + 1e-6 * exact.abs().max() + limits.smallest_normal * limits.eps
        wrong += int(((written.float() - exact).abs() > allowed).sum())
    if wrong:
        raise ExportMismatchError(f"{name}: {wrong:,} of {exact.numel():,} values are not those trained, rounded once")
