"""Ranks that serve one program after the other are to every program as if it were the first."""

import os
import random
import threading
from pathlib import Path

import deepspeed
import numpy as np
import pytest
import torch
import torch.distributed as dist

from finetune_contract import RunConfig
from finetune_trainer.distributed import World, sums
from multiproc.cases import config, train
from multiproc.parity import STRATEGIES
from multiproc.ranks import RankFailedError, on_ranks


def process_id(world: World) -> int:
    return os.getpid()


def surroundings(world: World) -> tuple[object, ...]:
    """What a program sees of the process that it runs in."""
    numbers = (torch.rand(3).tolist(), np.random.random(3).tolist(), random.random())  # noqa: S311
    groups = len(dist.distributed_c10d._world.pg_map)
    environment = {key: value for key, value in os.environ.items() if key != "MASTER_PORT"}
    linear = torch.nn.functional.linear is torch._C._nn.linear
    return numbers, groups, environment, os.getcwd(), linear, deepspeed.comm.is_initialized()


def disturbed(world: World, folder: Path) -> float:
    """Changes all of it."""
    torch.manual_seed(1)
    dist.new_group(backend="gloo")
    os.environ["LEFT_BEHIND"] = "1"
    del os.environ["HOME"]
    os.chdir(folder)
    torch.nn.functional.linear = surroundings  # type: ignore[assignment]
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, dist_init_required=False)
    return sums(world, [world.rank + 1.0])[0]


def failing(world: World) -> None:
    """Rank 1 fails while rank 0 waits for it."""
    if world.rank == 1:
        raise ValueError("rank 1 has had enough")
    sums(world, [1.0])


def dying(world: World) -> None:
    if world.rank == 0:
        os._exit(7)
    sums(world, [1.0])


def leaving_a_thread(world: World) -> None:
    threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()


def leaving_gradients_off(world: World) -> None:
    torch.set_grad_enabled(False)


def saying(world: World, word: str) -> None:
    print(word, flush=True)
    os.write(2, f"{word} on rank {world.rank}\n".encode())


def compiling_into(world: World, folder: Path, run: RunConfig) -> None:
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    train(world, run)


def test_programs_run_in_the_same_processes_and_see_nothing_of_one_another(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first, before = on_ranks(2, process_id, log=log), on_ranks(2, surroundings, log=log)
    assert on_ranks(2, disturbed, tmp_path, log=log) == [3.0, 3.0]
    assert on_ranks(2, surroundings, log=log) == before
    assert on_ranks(2, process_id, log=log) == first


def test_every_program_has_its_own_log(tmp_path: Path) -> None:
    for word in ("one", "two"):
        on_ranks(2, saying, word, log=tmp_path / word)
    written = [(tmp_path / f"one.{rank}.log").read_text() for rank in (0, 1)]
    assert written == ["one\none on rank 0\n", "one\none on rank 1\n"]
    assert "one" not in (tmp_path / "two.0.log").read_text()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (failing, "rank 1 has had enough"),
        (dying, "rank 0: ended without an answer, exit code 7"),
        (leaving_a_thread, r"leaving_a_thread left behind: threads: .*forgotten"),
        (leaving_gradients_off, "leaving_gradients_off left behind: gradients enabled: False instead of True"),
    ],
)
def test_a_program_that_fails_or_leaves_something_is_named_and_the_next_one_gets_new_ranks(
    program: object, message: str, tmp_path: Path
) -> None:
    before = on_ranks(2, process_id, log=tmp_path / "log")
    with pytest.raises(RankFailedError, match=message):
        on_ranks(2, program, log=tmp_path / "log")  # type: ignore[arg-type]
    assert not set(before) & set(on_ranks(2, process_id, log=tmp_path / "log"))


def test_nothing_is_compiled(tmp_path: Path, odd_model: Path, odd_tokens: Path) -> None:
    """DeepSpeed's own communication would take minutes and a compiler; no training uses it."""
    run = config(
        tmp_path / "run", odd_model, odd_tokens, batch=(1, 2, 2), max_steps=1, parallelism=STRATEGIES["ZeRO-2"]
    )
    on_ranks(2, compiling_into, tmp_path / "built", run, log=tmp_path / "log")
    assert not (tmp_path / "built").exists()
