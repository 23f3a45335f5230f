"""The ranks of an attempt, and the few things they agree on.

Three groups: the default one carries tensors (NCCL on GPUs, gloo on CPUs); `control` is gloo on CPUs always, so that
agreeing on a word never waits behind a GPU's queue; `background` is another one for threads that write checkpoints.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, and missing from __all__

from finetune_contract import Failure
from finetune_trainer.failures import PEER_LOST, AgreedError, RendezvousFailedError, UserError, failure_of
from finetune_trainer.ranks import RENDEZVOUS_SECONDS

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Long enough for a rank to read a large model while the others wait; the operator sees a hang much earlier."""
WRITING_TIMEOUT = timedelta(days=1)
"""A slow volume is no failure: whoever needs the checkpoint waits for it, and knows how long he may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process's place among all of them."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None
    """None for a world of one, which agrees with itself."""
    background: dist.ProcessGroup | None = None
    """The same for the one thread that works beside the training."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that reports and writes."""
        return self.rank == 0


def join() -> World:
    """Take the place that the launcher's environment gives (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    Raises: UserError when this node has fewer GPUs than ranks; RendezvousFailedError when not all ranks came.
    """
    device = _device(int(os.environ["LOCAL_RANK"]))
    # gloo beside NCCL, since FSDP's CPU offload reduces tensors that live in host memory
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        backend,
        store=_store(rank, size),
        rank=rank,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    control = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    background = dist.new_group(backend="gloo", timeout=WRITING_TIMEOUT)
    assert isinstance(control, dist.ProcessGroup), "every rank is a member"
    assert isinstance(background, dist.ProcessGroup), "every rank is a member"
    return World(
        rank=dist.get_rank(), size=dist.get_world_size(), device=device, control=control, background=background
    )


def _store(rank: int, size: int) -> TCPStore:
    """Where the ranks find one another: rank 0 keeps it, and all wait until everybody is there."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return TCPStore(address, port, size, is_master=rank == 0, timeout=timedelta(seconds=RENDEZVOUS_SECONDS))
    except (dist.DistError, TimeoutError) as error:
        raise RendezvousFailedError(
            f"the ranks of this attempt did not find one another at {address}:{port} in {RENDEZVOUS_SECONDS} seconds: "
            f"{error}"
        ) from error


def beside(world: World) -> World:
    """The same world for threads that agree with one another while the ranks themselves do something else."""
    return replace(world, control=world.background)


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


def summed_on_device(world: World, value: Tensor) -> Tensor:
    """Sum of a tensor over the ranks, where it lies; queued, so nobody waits for it."""
    total = value.clone()
    if world.size > 1:
        dist.all_reduce(total)
    return total


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


class Question:
    """A question that any rank may answer with yes, asked over and over without waiting for the answers.

    Every call asks anew, and returns what was agreed on at the call before: so the answer is the same on every rank at
    the same call, and the message has a whole pass of time to travel.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: tuple[Tensor, dist.Work] | None = None

    def any_rank(self, flag: bool) -> bool:
        """Whether a rank had set its flag at the call before; alone, whether `flag` is set."""
        if self._world.size == 1:
            return flag
        answer = self.answer()
        if not answer:
            tensor = torch.tensor([flag], dtype=torch.int32)
            work = dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._world.control, async_op=True)
            assert work is not None, "it is asynchronous"
            self._asked = (tensor, work)
        return answer

    def answer(self) -> bool:
        """Wait for what was asked last; False when nothing was."""
        if self._asked is None:
            return False
        (tensor, work), self._asked = self._asked, None
        work.wait()
        return bool(tensor.item())


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


def from_all(world: World, text: str) -> list[str]:
    """Every rank's `text`, on every rank, in the order of ranks."""
    if world.size == 1:
        return [text]
    encoded = text.encode()
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world.size)]
    dist.all_gather(lengths, torch.tensor([len(encoded)], dtype=torch.int64), group=world.control)
    own = torch.zeros(max(map(int, lengths)), dtype=torch.uint8)
    own[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
    texts = [torch.empty_like(own) for _ in range(world.size)]
    dist.all_gather(texts, own, group=world.control)
    return [bytes(each[: int(length)].tolist()).decode() for each, length in zip(texts, lengths, strict=True)]


def on_main(world: World, action: Callable[[], str]) -> str:
    """Rank 0 does it; every rank gets its answer, or raises what it failed with as an AgreedError.

    Whoever waits in a collective for a rank that has failed learns of it as a broken connection; so says the cause.
    """
    answer, caught = attempted(world, action) if world.is_main else ("", None)
    return answers_given([from_main(world, answer)], caught)[0]


def on_all(world: World, action: Callable[[], str]) -> list[str]:
    """Every rank does it; every rank gets all answers, or raises what one of them failed with as an AgreedError."""
    answer, caught = attempted(world, action)
    return answers_given(from_all(world, answer), caught)


def attempted(world: World, action: Callable[[], str]) -> tuple[str, Exception | None]:
    """What `action` answers or fails with, as one text that can be sent (see `answers_given`), and the error itself."""
    try:
        return f"+{action()}", None
    except Exception as error:
        return f"-{failure_of(error, rank=world.rank).model_dump_json()}", error


def answers_given(attempts: Sequence[str], caught: Exception | None = None) -> list[str]:
    """The answers in `attempts`; `caught` is what failed on this rank, for its log.

    Raises: AgreedError with the first failure, rather with one that is no echo of another rank's.
    """
    failures = [Failure.model_validate_json(each[1:]) for each in attempts if each.startswith("-")]
    if failures:
        raise AgreedError(min(failures, key=lambda failure: failure.reason == PEER_LOST)) from caught
    return [each[1:] for each in attempts]
