"""Runs programs on ranks that are forked from this process once and then serve one program after the other.

Importing torch and transformers takes eight seconds of a CPU, and the first use of a strategy one more; a fork takes
none. Nothing here computes before the fork, since threads of a parent do not live on in its children.

A program finds its ranks as a fresh process would be: see rank_process. Whatever goes wrong on a rank ends all of them,
since its peers may wait for it for ever; the next program gets new ones.
"""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from finetune_trainer.strategies import ddp, deepspeed, fsdp
from multiproc.rank_process import Job, Tidy, serve

STRATEGIES = (ddp, deepspeed, fsdp)
"""A run imports the one it needs; here all are, before the fork."""

SECONDS = 240
"""What a program may take."""
GRACE_SECONDS = 1
"""How long the other ranks are heard after one has failed."""

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

T = TypeVar("T")


class RankFailedError(AssertionError):
    """What went wrong on a rank, with its log."""


def on_ranks(size: int, program: Callable[..., T], *arguments: Any, log: Path) -> list[T]:
    """`program(world, *arguments)` on `size` gloo ranks; their answers in the order of ranks.

    `program` and `arguments` are pickled, so a function must be one of a module. Each rank writes `<log>.<rank>.log`.

    Raises: RankFailedError with the tracebacks of the ranks that failed, or with what the program left behind.
    """
    crew = _crews.pop(size, None) or _Crew(size)
    try:
        answers = crew.run(program, arguments, log)
    except BaseException:
        crew.end()
        raise
    _crews[size] = crew
    return answers


def end_ranks() -> None:
    """End all ranks that wait for a program."""
    while _crews:
        _crews.popitem()[1].end()


class _Crew:
    """The ranks of one world."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe() for _ in range(size)]
        self._size = size
        self._connections = [ours for ours, _ in pipes]
        # a connection ends with the process at its other end, as long as no third one holds it as well
        ends = [each for pipe in pipes for each in pipe] + [
            each for crew in _crews.values() for each in crew._connections
        ]
        self._processes: list[BaseProcess] = [
            context.Process(
                target=serve,
                args=(rank, size, theirs, [each for each in ends if each is not theirs]),
                daemon=True,
            )
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        for _, theirs in pipes:
            theirs.close()

    def run(self, program: Callable[..., T], arguments: tuple[Any, ...], log: Path) -> list[T]:
        """All ranks run the program, answer, and only then clean up: none closes a group that one still uses."""
        pickled = bytes(ForkingPickler.dumps((program, arguments)))
        answers = self._asked(Job(port=_free_port(), log=log, pickled=pickled), log)
        left = self._asked(Tidy(), log)
        for rank, what in enumerate(left):
            if what:
                raise RankFailedError(f"rank {rank}: {program.__qualname__} left behind: {'; '.join(what)}")
        return cast(list[T], answers)

    def end(self) -> None:
        """Kill them: one that waits for a failed peer would not listen."""
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.kill()
            process.join()
            connection.close()

    def _asked(self, question: Job | Tidy, log: Path) -> list[Any]:
        for connection in self._connections:
            connection.send(question)
        deadline = time.monotonic() + SECONDS
        answers: dict[int, Any] = {}
        failures: dict[int, str] = {}
        while len(answers) + len(failures) < self._size:
            waiting = [rank for rank in range(self._size) if rank not in answers | failures]
            ready = wait([self._connections[rank] for rank in waiting], timeout=deadline - time.monotonic())
            if not ready:
                failures |= dict.fromkeys(waiting, "gave no answer in time")
            for rank in [rank for rank in waiting if self._connections[rank] in ready]:
                succeeded, answer = self._answer(rank)
                (answers if succeeded else failures)[rank] = answer
            if failures:  # the others wait for it for ever, or fail as well in a moment
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if failures:
            raise RankFailedError("\n".join(f"rank {rank}: {failures[rank]}\n{_tail(log, rank)}" for rank in failures))
        return [answers[rank] for rank in range(self._size)]

    def _answer(self, rank: int) -> tuple[bool, Any]:
        try:
            answer: tuple[bool, Any] = self._connections[rank].recv()
            return answer
        except EOFError:
            self._processes[rank].join()
            return False, f"ended without an answer, exit code {self._processes[rank].exitcode}"


_crews: dict[int, _Crew] = {}
"""By their sizes; each waits for a program."""


def _tail(log: Path, rank: int) -> str:
    """The end of a rank's log; of one that died by a signal, where it was."""
    file = log.with_suffix(f".{rank}.log")
    text = file.read_text(errors="replace") if file.exists() else ""
    crash = text.find("Fatal Python error")
    return text[-3000:] if crash < 0 else text[crash : crash + 3000]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
