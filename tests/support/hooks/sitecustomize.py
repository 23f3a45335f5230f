"""Faults that a machine without GPUs cannot have by itself, in the ranks of a pod; tests alone put this on PYTHONPATH.

Python imports this module whenever it starts. A rank whose host name has a file `<host name>.json` beside this one gets
the faults that it names, see `support.faults.Hook`; everything else is left alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER, HOST = Path(__file__).parent, os.environ.get("HOSTNAME", "")
LOOK_SECONDS = 0.05


class Afterwards(MetaPathFinder):
    """Calls `change` with a module once that has been imported."""

    def __init__(self, name: str, change: Callable[[Any], None]) -> None:
        self._name, self._change = name, change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with the change at the end of its execution."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            self._change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def injure(stepping: Any, hook: dict[str, Any]) -> None:
    """Put the faults around the forward and backward passes of a step."""
    accumulate, summed_loss = stepping.accumulate, stepping.summed_loss
    number = 0

    def injured_accumulate(run: Any, step: Any) -> Any:
        nonlocal number
        number = step.number
        if number == hook["hold_step"]:
            hold(run)
        if number == hook["host_memory_step"]:
            fill_host_memory(hook["host_memory_bytes"])
        if number >= hook["gpu_step"] and run.config.batch.micro_sequences > hook["gpu_sequences"]:
            raise_out_of_memory()
        return accumulate(run, step)

    def injured_loss(*arguments: Any) -> Any:
        loss = summed_loss(*arguments)
        return loss * float("nan") if hook["nan_step"] <= number <= hook["last_nan_step"] else loss

    stepping.accumulate, stepping.summed_loss = injured_accumulate, injured_loss


def hold(run: Any) -> None:
    """Wait until the test lets go, or somebody asks the run to stop."""
    while not (FOLDER / f"{HOST}.go").exists() and not run.stop.requested:
        time.sleep(LOOK_SECONDS)


def fill_host_memory(size: int) -> None:
    """Use that many bytes, each page of them; the kernel may not like it."""
    block = bytearray(size)
    block[::4096] = b"1" * len(block[::4096])


def raise_out_of_memory() -> None:
    """What torch raises when a GPU has no room left, in its words."""
    import torch

    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.10 GiB is "
        "free. Of the allocated memory 76.20 GiB is allocated by PyTorch"
    )


if sys.orig_argv[-3:-1] == ["-m", "finetune_trainer"] and (FOLDER / f"{HOST}.json").exists():
    wanted = json.loads((FOLDER / f"{HOST}.json").read_text())
    sys.meta_path.insert(0, Afterwards("finetune_trainer.stepping", lambda module: injure(module, wanted)))
