"""Runs a function on several ranks that are forked from this process, which has imported everything already.

Importing torch and transformers takes eight seconds of a CPU; a fork takes none. Nothing here computes before the fork,
since threads of a parent do not live on in its children.
"""

import faulthandler
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch

from finetune_trainer import distributed, reporting
from finetune_trainer.distributed import World
from finetune_trainer.strategies import ddp, deepspeed, fsdp

STRATEGIES = (ddp, deepspeed, fsdp)
"""A run imports the one it needs; here all are, before the fork."""

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# deepspeed compiles its communication operator at first use; kept for the next time
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache" / "qwen3-finetune" / "torch-extensions"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SECONDS = 240

T = TypeVar("T")


class RankFailedError(AssertionError):
    """What went wrong on a rank, with its log."""


def on_ranks(size: int, program: Callable[..., T], *arguments: Any, log: Path) -> list[T]:
    """`program(world, *arguments)` on `size` gloo ranks; their answers in the order of ranks.

    Raises: RankFailedError with the traceback of the first rank that failed.
    """
    context = multiprocessing.get_context("fork")
    port = _free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(target=_rank, args=(rank, size, port, log, pipes[rank][1], program, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        answers = [_answer(process, pipes[rank][0], rank, log) for rank, process in enumerate(processes)]
    finally:
        for process in processes:
            process.join(timeout=5)
            process.kill()
    return answers


def _answer(process: BaseProcess, receiver: Connection, rank: int, log: Path) -> Any:
    # a process that dies without a word leaves its pipe open in the others, so both are watched
    wait([receiver, process.sentinel], timeout=SECONDS)
    if not receiver.poll():
        raise RankFailedError(f"rank {rank} gave no answer, exit code {process.exitcode}\n{_tail(log, rank)}")
    succeeded, answer = receiver.recv()
    if not succeeded:
        raise RankFailedError(f"rank {rank}: {answer}\n{_tail(log, rank)}")
    return answer


def _tail(log: Path, rank: int) -> str:
    return log.with_suffix(f".{rank}.log").read_text(errors="replace")[-3000:]


def _rank(
    rank: int, size: int, port: int, log: Path, sender: Any, program: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    output = os.open(log.with_suffix(f".{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable(output)  # pytest's own would write between its dots
    # torch replaces its forked thread pool at the next use; two autograd threads would race for it and abort
    torch.set_num_threads(1)
    reporting.log_to_stderr(rank)
    try:
        world: World = distributed.join()
        sender.send((True, program(world, *arguments)))
    except BaseException:
        sender.send((False, traceback.format_exc()))
    os._exit(0)  # communication threads of a failed peer may never end


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
