"""A rank that serves one program after the other, each as if it were the first.

For every program: a process group of its own (with a port of its own), the same random numbers, the environment and
the working folder that the rank began with, DeepSpeed and torch as they were imported. `left_behind` names what could
not be made so.
"""

import contextlib
import faulthandler
import gc
import os
import pickle
import random
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.runtime.zero import parameter_offload, partition_parameters
from deepspeed.utils import groups
from torch.distributed.distributed_c10d import _world
from tqdm import tqdm  # type: ignore[import-untyped]

from finetune_trainer import distributed, reporting

SEED = 20250428


@dataclass(frozen=True, slots=True)
class Job:
    """A program to run; answered by (True, what it returned) or (False, traceback)."""

    port: int
    log: Path
    pickled: bytes
    """The program and its arguments."""


@dataclass(frozen=True, slots=True)
class Tidy:
    """Sent when all ranks have answered; answered by (True, what could not be cleaned)."""


def serve(rank: int, size: int, connection: Connection, foreign: Sequence[Connection]) -> None:
    """Runs jobs until the parent closes the connection; `foreign` ones belong to others, and came with the fork."""
    for each in foreign:
        each.close()
    # torch replaces its forked thread pool at the next use; two autograd threads would race for it and abort
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread would outlive the program that showed the first bar
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    gc.freeze()  # what was imported needs no second look at every clean-up
    first = Surroundings()
    with contextlib.suppress(EOFError):
        while True:
            question = connection.recv()
            connection.send(_answer(question, rank) if isinstance(question, Job) else (True, first.left_behind()))
    os._exit(0)  # communication threads of a failed peer may never end


def _answer(job: Job, rank: int) -> tuple[bool, Any]:
    _write_to(job.log.with_suffix(f".{rank}.log"), rank)
    os.environ["MASTER_PORT"] = str(job.port)
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)
    try:
        program, arguments = pickle.loads(job.pickled)  # noqa: S301 - the parent's own
        return True, program(distributed.join(), *arguments)
    except BaseException:
        return False, traceback.format_exc()


def _write_to(file: Path, rank: int) -> None:
    """Everything that is written from now on, by whatever means, goes into `file`."""
    output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    # pytest's own streams would write into whatever test runs in the parent
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    faulthandler.enable(2)
    reporting.log_to_stderr(rank)


class Surroundings:
    """What a program may change and the next one must not see."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._folder = os.getcwd()
        self._linear = torch.nn.functional.linear
        self._rest = dict(_rest())

    def left_behind(self) -> list[str]:
        """Put back what can be put back; name what is still different."""
        self._restore()
        _let_threads_end()
        return [
            f"{name}: {value!r} instead of {self._rest[name]!r}" for name, value in _rest() if value != self._rest[name]
        ]

    def _restore(self) -> None:
        gc.collect()  # engines hold groups, and lie in cycles
        if deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()
        elif dist.is_initialized():
            dist.destroy_process_group()
        deepspeed.comm.comm.cdb = None
        parameter_offload.FWD_MODULE_STACK.clear()  # a pass that was stopped in the middle leaves its modules
        torch.nn.functional.linear = self._linear  # ZeRO-3 puts its own there, for good
        os.environ.clear()
        os.environ.update(self._environment)
        os.chdir(self._folder)


def _rest() -> Iterator[tuple[str, Any]]:
    yield "process groups", [*_world.pg_names.values()]
    yield "DeepSpeed's groups", {name: value for name, value in vars(groups).items() if name.isupper() and value}
    yield "DeepSpeed's device mesh", groups.mesh_device
    yield "depth of zero.Init", partition_parameters.zero_init_context
    yield "creation of modules", (torch.nn.Module.__init__, torch.nn.Module.apply, torch.Tensor.__new__)
    yield "gradients enabled", torch.is_grad_enabled()
    yield "default dtype", torch.get_default_dtype()
    yield "deterministic algorithms", torch.are_deterministic_algorithms_enabled()
    yield "autocast", torch.is_autocast_enabled("cpu")
    yield "threads of torch", torch.get_num_threads()
    yield "threads", sorted(thread.name for thread in threading.enumerate())
    yield "child processes", [child.name for child in active_children()]


def _let_threads_end() -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=2)
