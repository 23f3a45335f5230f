"""What happens to a run that trains: to its processes, its pods, its volume, its network."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

from case import Case, attempt_words, story

from support import faults, volumes

ENOUGH_BYTES = 64 * 2**20
EMPTY_DIR_BYTES = 21 * 2**30
"""More than the limit of the pod's /tmp."""
HANG_SECONDS = 60
"""The shortest recovery.hangTimeoutSeconds."""


@story("Rank 0 is killed (SIGKILL)")
def rank_0_killed(case: Case) -> None:
    case.start_and_hold(nodes=2)
    case.inject(lambda: case.send(signal.SIGKILL, index=0))
    case.named(attempt_words(), "Infrastructure.*rank 0 .*SIGKILL")
    case.decided("Retry")
    case.succeeded(restarts=1)


@story("Rank 1 is killed (SIGKILL)")
def rank_1_killed(case: Case) -> None:
    case.start_and_hold(nodes=2)
    case.inject(lambda: case.send(signal.SIGKILL, index=1))
    case.let_go()
    case.named(attempt_words(), "Infrastructure.*rank 1 .*SIGKILL")
    case.decided("Retry")
    case.succeeded(restarts=1)


@story("The launcher, process 1 of a pod, is killed (SIGKILL)")
def launcher_killed(case: Case) -> None:
    case.start_and_hold()
    case.inject(lambda: case.send(signal.SIGKILL, command=faults.LAUNCHER))
    case.named(attempt_words(), "Infrastructure.*(137|SIGKILL)")
    case.decided("Retry")
    case.succeeded(restarts=1)


@story("Rank 1 hangs (SIGSTOP)", long=True)
def hang(case: Case) -> None:
    case.run(nodes=2)["spec"]["recovery"] = {"hangTimeoutSeconds": HANG_SECONDS}
    case.start_and_hold(nodes=2)
    case.inject(lambda: case.send(signal.SIGSTOP, index=1))
    case.let_go()
    case.named(attempt_words(), "Hang.*no step.*stacks", HANG_SECONDS + 60)
    case.decided("Retry")
    case.succeeded(restarts=1)


@story("The network between the pods is cut, without a word", long=True)
def network_cut(case: Case) -> None:
    case.run(nodes=2)["spec"]["recovery"] = {"hangTimeoutSeconds": HANG_SECONDS}
    case.start_and_hold(nodes=2)
    address = case.pod(1)["status"]["podIP"]
    case.inject(lambda: faults.cut_off(case.host(0), address))
    case.let_go()
    case.named(attempt_words(), "Hang.*no step", HANG_SECONDS + 60)
    case.decided("Retry")
    case.succeeded(restarts=1)


@story("The pod fills its /tmp and is evicted", long=True)
def evicted(case: Case) -> None:
    case.start_and_hold()
    pods = case.stage.cluster.node.state / "kubelet" / "pods"
    folder = pods / case.pod()["metadata"]["uid"] / "volumes" / "kubernetes.io~empty-dir" / "temporary"
    case.inject(lambda: reserve(folder / "big", EMPTY_DIR_BYTES))
    case.named(attempt_words(), "exceeds the limit", 150)
    case.decided("Retry")
    case.succeeded(restarts=1)


def reserve(file: Path, size: int) -> None:
    """Blocks of that many bytes in all, which nobody has to write."""
    with file.open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, size)


def with_small_output(case: Case) -> Path:
    """The run's output lies on a small volume in memory."""
    folder = case.claim("output")
    mounted = ExitStack()
    mounted.enter_context(volumes.tmpfs(folder, ENOUGH_BYTES))
    case.finally_do(mounted.close)
    case.run()["spec"]["storage"]["output"] = {"claimName": f"{case.name}-output"}
    return folder


@story("The output's volume is full before a checkpoint")
def volume_full(case: Case) -> None:
    folder = with_small_output(case)
    case.start_and_hold()
    volumes.fill(folder)
    case.inject(case.let_go)
    case.named(attempt_words(), "UserError.*(full|space|free)")
    case.decided("GiveUp")
    case.failed("DiskFull.*storage.output")


@story("The output's volume becomes read-only before a checkpoint")
def volume_read_only(case: Case) -> None:
    folder = with_small_output(case)
    case.start_and_hold()
    volumes.make_read_only(folder)
    case.inject(case.let_go)
    case.named(attempt_words(), "read-only")
    case.decided("GiveUp")
    case.failed("read-only")
