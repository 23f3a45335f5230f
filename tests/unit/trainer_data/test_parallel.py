"""Work spread over processes comes back in order, in bounded memory, and a killed worker is told."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from finetune_contract import ExitCode
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.parallel import IN_FLIGHT_PER_WORKER, POOL_FROM_ITEMS, available_cores, mapped


def squared(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def test_results_come_in_order_from_other_processes() -> None:
    results = list(mapped(squared, iter(range(40)), workers=2))
    assert [square for square, _ in results] == [n * n for n in range(40)]
    assert os.getpid() not in {process for _, process in results}


@pytest.mark.parametrize(("count", "workers"), [(POOL_FROM_ITEMS - 1, 2), (40, 1), (0, 2)])
def test_little_work_stays_in_this_process(count: int, workers: int) -> None:
    results = list(mapped(squared, iter(range(count)), workers=workers))
    assert [square for square, _ in results] == [n * n for n in range(count)]
    assert {process for _, process in results} <= {os.getpid()}


def test_items_are_taken_as_they_are_needed() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = mapped(squared, items(), workers=2)
    assert next(results)[0] == 0
    assert taken <= POOL_FROM_ITEMS + 2 * IN_FLIGHT_PER_WORKER + 1
    results.close()  # type: ignore[attr-defined] # a generator


def killed(number: int) -> int:
    if number == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_told_with_the_remedy() -> None:
    with pytest.raises(PreparationError, match="give it more memory, or fewer CPUs") as caught:
        list(mapped(killed, iter(range(40)), workers=2))
    assert caught.value.failure.reason == "WorkerKilled"
    assert caught.value.failure.exit_code is ExitCode.INFRASTRUCTURE


PREPARATION = """
import time
from finetune_trainer.data.parallel import mapped

def work(number):
    print(number, flush=True)
    time.sleep(60)

list(mapped(work, iter(range(40)), workers=2))
"""


@pytest.mark.timeout(50)
def test_workers_end_with_a_killed_preparation() -> None:
    with subprocess.Popen([sys.executable, "-c", PREPARATION], stdout=subprocess.PIPE, text=True) as preparation:
        assert preparation.stdout is not None
        preparation.stdout.readline()
        preparation.kill()
        preparation.stdout.read()  # ends when the last process that could write to it has ended
    assert preparation.returncode == -signal.SIGKILL


def test_there_is_at_least_one_core() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
