"""Which of several ranks' ends explains the others, and what an error is called."""

import errno

import pytest
import torch

from finetune_contract import ExitCode, Failure, Outcome
from finetune_trainer.failures import NotANumberError, UserError, failure_of
from finetune_trainer.launch import Place, root_cause, unresolved
from support.runs import there


def failed(code: ExitCode, reason: str, rank: int) -> Outcome:
    return Outcome(exit_code=code, failure=Failure(exit_code=code, reason=reason, message=reason, rank=rank))


PEER_LOST = failed(ExitCode.INFRASTRUCTURE, "PeerLost", 0)
DISK_FULL = failed(ExitCode.USER_ERROR, "DiskFull", 1)
PREEMPTED = Outcome(exit_code=ExitCode.PREEMPTED, step=3)


def test_a_rank_s_own_failure_explains_its_peers() -> None:
    assert root_cause([PEER_LOST, DISK_FULL], {0: 67, 1: 64}) == DISK_FULL


def test_a_kill_explains_a_broken_connection() -> None:
    found = root_cause([PEER_LOST], {1: -9, 0: 67})
    assert found.exit_code is ExitCode.INFRASTRUCTURE
    assert found.failure is not None
    assert (found.failure.reason, found.failure.rank) == ("RankKilled", 1)
    assert "rank 1 was ended by SIGKILL" in found.failure.message


def test_the_launcher_s_own_kill_explains_nothing() -> None:
    assert root_cause([DISK_FULL], {1: 64, 0: -9}) == DISK_FULL


def test_a_broken_connection_alone_came_from_another_node() -> None:
    assert root_cause([PEER_LOST], {0: 67}) == PEER_LOST


def test_a_rank_that_ends_without_a_word_is_a_bug() -> None:
    found = root_cause([PREEMPTED], {1: 1, 0: 75})
    assert found.exit_code is ExitCode.UNEXPECTED


def test_a_rank_that_was_told_to_stop_explains_a_broken_connection_to_it() -> None:
    assert root_cause([PEER_LOST, PREEMPTED], {0: 67, 1: 75}) == PREEMPTED


def test_all_preempted_is_preempted() -> None:
    assert root_cause([PREEMPTED, PREEMPTED], {0: 75, 1: 75}) == PREEMPTED


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (UserError("TargetNotFound", "no"), ExitCode.USER_ERROR, "TargetNotFound"),
        (NotANumberError("loss"), ExitCode.NOT_A_NUMBER, "NotANumber"),
        (OSError(errno.ENOSPC, "full"), ExitCode.USER_ERROR, "DiskFull"),
        (RuntimeError("gloo: Connection closed by peer [127.0.0.1]:1"), ExitCode.INFRASTRUCTURE, "PeerLost"),
        (KeyError("x"), ExitCode.UNEXPECTED, "KeyError"),
    ],
    ids=lambda value: value.name if isinstance(value, ExitCode) else type(value).__name__,
)
def test_an_error_has_its_exit_code(error: Exception, code: ExitCode, reason: str) -> None:
    failure = failure_of(error, rank=3, step=7)
    assert (failure.exit_code, failure.reason, failure.rank, failure.step) == (code, reason, 3, 7)


def test_a_cpu_that_is_refused_memory_is_out_of_it_too() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50, dtype=torch.uint8)
    failure = failure_of(refused.value)
    assert (failure.exit_code, failure.requested_bytes) == (ExitCode.OUT_OF_MEMORY, 2**50)
    assert "the device's memory did not suffice" in failure.message


def test_an_out_of_memory_error_tells_what_was_asked_for() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ...")
    failure = failure_of(error, rank=0, step=1)
    assert failure.exit_code is ExitCode.OUT_OF_MEMORY
    assert failure.requested_bytes == int(2.5 * 2**30)


def test_a_first_pod_that_does_not_find_itself_tells_of_the_dns_soon() -> None:
    first, other = (
        Place(num_nodes=2, ranks_per_node=1, node_rank=rank, master_address="run-r1-0.run", master_port=29500)
        for rank in (0, 1)
    )
    assert first.name_seconds < other.name_seconds, "the others may wait for its image to be pulled"
    own, others = (there(unresolved(place).failure) for place in (first, other))
    assert (own.reason, others.reason) == ("DnsFailed", "RendezvousFailed")
    assert "run-r1-0.run did not resolve in 45 seconds, though it is this pod's own" in own.message
