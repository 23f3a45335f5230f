"""The ranks of an attempt, and the few things they agree on.

Two groups: the default one carries tensors (NCCL on GPUs, gloo on CPUs); `control` is gloo on CPUs always, so that
agreeing on a word never waits behind a GPU's queue.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from finetune_contract import Failure
from finetune_trainer.failures import AgreedError, UserError, failure_of

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Long enough for rank 0 to write a large checkpoint while the others wait; the operator sees a hang much earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process's place among all of them."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None
    """None for a world of one, which agrees with itself."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that reports and writes."""
        return self.rank == 0


def join() -> World:
    """Take the place that the launcher's environment gives (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    Raises: UserError when this node has fewer GPUs than ranks.
    """
    device = _device(int(os.environ["LOCAL_RANK"]))
    # gloo beside NCCL, since FSDP's CPU offload reduces tensors that live in host memory
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT, device_id=device if device.type == "cuda" else None)
    control = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    assert isinstance(control, dist.ProcessGroup), "every rank is a member"
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=device, control=control)


def leave() -> None:
    """Close the groups; called on the good path alone, since after a failure a peer may never answer."""
    dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError("TooFewGpus", f"parallelism.gpusPerNode: rank {local_rank} of this node has no GPU of {count}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def sums(world: World, values: Sequence[float]) -> list[float]:
    """Element-wise sums over the ranks, in float64; not finite as soon as one rank's value is not."""
    return _reduced(world, values, dist.ReduceOp.SUM)


def maxima(world: World, values: Sequence[float]) -> list[float]:
    """Element-wise maxima over the ranks."""
    return _reduced(world, values, dist.ReduceOp.MAX)


def gathered(world: World, row: Sequence[float]) -> list[list[float]]:
    """Every rank's row of numbers, in the order of ranks; the rows are equally long."""
    own = torch.tensor(row, dtype=torch.float64)
    if world.size == 1:
        return [own.tolist()]
    rows = [torch.empty_like(own) for _ in range(world.size)]
    dist.all_gather(rows, own, group=world.control)
    return [each.tolist() for each in rows]


def any_rank(world: World, flag: bool) -> bool:
    """Whether `flag` is set on any rank; the same answer everywhere."""
    return bool(maxima(world, [float(flag)])[0])


def _reduced(world: World, values: Sequence[float], operation: "dist.ReduceOp.RedOpType") -> list[float]:
    if world.size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, operation, group=world.control)
    return tensor.tolist()


def from_main(world: World, text: str) -> str:
    """Rank 0's `text`, on every rank; also a barrier that nobody passes before rank 0."""
    if world.size == 1:
        return text
    encoded = text.encode()
    length = torch.tensor([len(encoded)], dtype=torch.int64)
    dist.broadcast(length, src=0, group=world.control)
    data = torch.zeros(int(length), dtype=torch.uint8)
    if world.is_main:
        data = torch.tensor(list(encoded), dtype=torch.uint8)
    dist.broadcast(data, src=0, group=world.control)
    return bytes(data.tolist()).decode()


def on_main(world: World, action: Callable[[], str]) -> str:
    """Rank 0 does it; every rank gets its answer, or raises what it failed with as an AgreedError.

    Whoever waits in a collective for a rank that has failed learns of it as a broken connection; so says the cause.
    """
    answer, caught = "", None
    if world.is_main:
        try:
            answer = "+" + action()
        except Exception as error:
            caught = error
            answer = "-" + failure_of(error, rank=0).model_dump_json()
    answer = from_main(world, answer)
    if answer.startswith("-"):
        raise AgreedError(Failure.model_validate_json(answer[1:])) from caught
    return answer[1:]
