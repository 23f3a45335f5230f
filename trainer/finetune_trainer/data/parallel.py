"""Spreads a pure function over the cores, in order and in bounded memory."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from finetune_contract import ExitCode
from finetune_trainer.data.errors import PreparationError

T = TypeVar("T")
R = TypeVar("R")

POOL_FROM_ITEMS = 8
"""Fewer are done before a pool has started."""
IN_FLIGHT_PER_WORKER = 2
_function: Callable[[Any], Any] | None = None  # in a worker: what it was started with


def mapped(function: Callable[[T], R], items: Iterator[T], *, workers: int) -> Iterator[R]:
    """`function` of every item, in the order of the items; few items are not worth a pool and stay in this process.

    Raises: PreparationError if a worker is killed, which is what a memory limit does.
    """
    head = list(islice(items, POOL_FROM_ITEMS))
    if workers == 1 or len(head) < POOL_FROM_ITEMS:
        yield from map(function, chain(head, items))
        return
    # Forked workers share what `function` holds (a tokenizer) without copying it.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("fork"), initializer=_adopt, initargs=(function,))
    waiting: deque[Future[R]] = deque()
    try:
        for item in chain(head, items):
            waiting.append(pool.submit(_call, item))
            if len(waiting) > IN_FLIGHT_PER_WORKER * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise PreparationError(
            "WorkerKilled",
            f"one of {workers} tokenizing processes was killed; most likely the memory limit of the preparation was "
            "reached: give it more memory, or fewer CPUs",
            exit_code=ExitCode.INFRASTRUCTURE,
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Cores this process may use: its affinity, and the CPU limit of its container."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2 here
        return cores


def _adopt(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per worker: the workers are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker that outlived a killed preparation would keep its lock on the cache for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    assert _function is not None, "_adopt ran first"
    return _function(item)
