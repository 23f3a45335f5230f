"""Process 1 of a pod: starts this node's ranks, passes on signals, and ends with the exit code of the root cause.

`python -m finetune_trainer.launch RUN_JSON`, placed by PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR
and PET_MASTER_PORT, as torchrun's static rendezvous would be; without them one node holds all ranks of the run. A rank
that dies ends the attempt on this node, and the operator begins another. The ranks tell by files that they can answer
signals, that they have met, that they move, and what became of them; ranks that stand still are ended (`hang`).
"""

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_contract import ExitCode, Failure, Outcome, RunConfig, read_message
from finetune_contract.paths import TERMINATION_FILE_ENV
from finetune_trainer.__main__ import OUTCOMES_DIR_ENV, StopFlag
from finetune_trainer.hang import ended_for_hang
from finetune_trainer.ranks import RENDEZVOUS_SECONDS, Ranks
from finetune_trainer.watch import Watch

OWN_NAME_SECONDS = 45
"""How long the first pod waits for its own name: DNS knows it once the pod has an address, or does not work at all."""
POLL_SECONDS = 0.1
LAST_SECONDS = 1.5
"""So long before the end of the grace the launcher waits no longer; the ranks leave earlier (stopping.exit_seconds)."""
UNANSWERED_SECONDS = 3
"""A stop request ends ranks that have not met the others after so long."""


@dataclass(frozen=True, slots=True)
class Place:
    """This node among all nodes of the attempt."""

    num_nodes: int
    ranks_per_node: int
    node_rank: int
    master_address: str
    master_port: int

    @classmethod
    def of(cls, environment: Mapping[str, str], config: RunConfig) -> "Place":
        """From torchrun's own variables; without them, all ranks of the run on this machine."""
        return cls(
            num_nodes=int(environment.get("PET_NNODES", "1")),
            ranks_per_node=int(environment.get("PET_NPROC_PER_NODE", str(config.batch.world_size))),
            node_rank=int(environment.get("PET_NODE_RANK", "0")),
            master_address=environment.get("PET_MASTER_ADDR", "127.0.0.1"),
            master_port=int(environment.get("PET_MASTER_PORT") or _free_port()),
        )

    @property
    def name_seconds(self) -> int:
        """How long to wait until the first node's name resolves."""
        return OWN_NAME_SECONDS if self.node_rank == 0 else RENDEZVOUS_SECONDS


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(arguments: list[str]) -> int:
    """Run this node's part of an attempt; writes the outcome where the environment says and returns its exit code."""
    stop = StopFlag()
    with tempfile.TemporaryDirectory(prefix="finetune-ranks-") as folder:
        outcome = _outcome(arguments[0], Path(folder), stop)
    termination_file = os.environ.get(TERMINATION_FILE_ENV)
    if termination_file:
        # in place: in a pod this is a mount, which cannot be renamed over
        Path(termination_file).write_text(outcome.to_message(), encoding="utf-8")
    return int(outcome.exit_code)


def _outcome(config_file: str, folder: Path, stop: StopFlag) -> Outcome:
    try:
        config = read_message(RunConfig, Path(config_file).read_text(encoding="utf-8"))
        place = Place.of(os.environ, config)
        world_size = place.num_nodes * place.ranks_per_node
        if world_size != config.batch.world_size:
            raise ValueError(
                f"{place.num_nodes} nodes x {place.ranks_per_node} ranks = {world_size} ranks; the run's batch is cut "
                f"for {config.batch.world_size}"
            )
    except (OSError, ValueError) as error:
        message = f"{config_file}: {error}"[:2000]
        return _failed(Failure(exit_code=ExitCode.USER_ERROR, reason="BadRunConfig", message=message))
    if not _master_resolves(place, stop):
        if stop.requested:
            return Outcome(exit_code=ExitCode.PREEMPTED)
        return unresolved(place)
    return _ranks_outcome(config, config_file, place, folder, stop)


def _master_resolves(place: Place, stop: StopFlag) -> bool:
    """Wait for the first node's name: asking torch too early would leave a negative answer in the resolver's cache."""
    deadline = time.monotonic() + place.name_seconds
    while time.monotonic() < deadline and not stop.requested:
        try:
            socket.getaddrinfo(place.master_address, place.master_port)
            return True
        except OSError:
            time.sleep(1)
    return False


def _ranks_outcome(config: RunConfig, config_file: str, place: Place, folder: Path, stop: StopFlag) -> Outcome:
    ranks = _started(config_file, place, folder)
    watch = Watch(folder, config.hang_timeout_seconds)
    is_told = False
    while ranks.are_running():
        time.sleep(POLL_SECONDS)
        if not stop.requested:
            stands = () if any(ranks.ends.values()) else watch.hung()
            if stands:
                return ended_for_hang(config, stands, ranks, folder, stop)
            continue
        if not is_told and len(list(folder.glob("rank-*.pid"))) == place.ranks_per_node:
            ranks.ask_to_stop()
            is_told = True
        if stop.seconds > UNANSWERED_SECONDS and not _have_met(place, folder):
            ranks.kill()  # nothing has been done that could be saved
            return Outcome(exit_code=ExitCode.PREEMPTED)
        if stop.seconds > config.grace_seconds - LAST_SECONDS:
            return _out_of_time(config, ranks)
    outcomes = [Outcome.model_validate_json(file.read_text(encoding="utf-8")) for file in _by_time(folder)]
    return root_cause(outcomes, ranks.ends)


def _started(config_file: str, place: Place, folder: Path) -> Ranks:
    threads = max(1, (os.cpu_count() or 1) // place.ranks_per_node)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {
        OUTCOMES_DIR_ENV: str(folder),
        "MASTER_ADDR": place.master_address,
        "MASTER_PORT": str(place.master_port),
    }  # fmt: skip
    return Ranks(
        [sys.executable, "-u", "-m", "finetune_trainer", config_file],
        environment,
        first=place.node_rank * place.ranks_per_node,
        count=place.ranks_per_node,
        world_size=place.num_nodes * place.ranks_per_node,
    )


def _have_met(place: Place, folder: Path) -> bool:
    """Whether the ranks of this node have found all others, so that there may be something to save."""
    return len(list(folder.glob("rank-*.met"))) == place.ranks_per_node


def _out_of_time(config: RunConfig, ranks: Ranks) -> Outcome:
    """The ranks answer too late: better to say so than to be killed without a word."""
    print(f"the ranks did not end in the {config.grace_seconds} seconds of grace and are killed", file=sys.stderr)
    ranks.kill()
    return Outcome(exit_code=ExitCode.PREEMPTED)


def _by_time(folder: Path) -> list[Path]:
    return sorted(folder.glob("rank-*.json"), key=lambda file: file.stat().st_mtime_ns)


def root_cause(outcomes: list[Outcome], ends: Mapping[int, int]) -> Outcome:
    """Which of the ranks' ends explains the others.

    `outcomes` in the order of writing, `ends` (see `Ranks.ends`) in the order of ending. A rank's own failure explains
    a broken connection to it and a kill that the launcher did afterwards; so does a rank's death by a signal, which
    leaves no outcome.
    """
    failed = [each for each in outcomes if each.failure is not None]
    own = [each for each in failed if each.failure is not None and each.failure.reason != "PeerLost"]
    killed = [(rank, -code) for rank, code in ends.items() if code < 0]
    if own:
        return own[0]
    if killed:
        return _rank_killed(*killed[0], failed)
    if failed:  # the connection to a rank broke: to one that was told to stop, or to one of another node
        return next((each for each in outcomes if each.exit_code is ExitCode.PREEMPTED), failed[0])
    silent = {rank: code for rank, code in ends.items() if code not in {int(each.exit_code) for each in outcomes}}
    if silent:
        message = f"rank {next(iter(silent))} ended with exit code {next(iter(silent.values()))} and no word"
        return _failed(Failure(exit_code=ExitCode.UNEXPECTED, reason="NoOutcome", message=message))
    return outcomes[0]


def _rank_killed(rank: int, number: int, failed: list[Outcome]) -> Outcome:
    name = signal.Signals(number).name
    hint = "; the kernel does so when the container's memory is used up" if name == "SIGKILL" else ""
    known = failed[0] if failed else None
    failure = Failure(
        exit_code=ExitCode.INFRASTRUCTURE,
        reason="RankKilled",
        message=f"rank {rank} was ended by {name}{hint}",
        rank=rank,
        step=known.step if known else None,
    )
    return _failed(failure, checkpoint_of=known)


def unresolved(place: Place) -> Outcome:
    """The end of a node that did not get to know where the first one is."""
    what = f"the name {place.master_address} did not resolve in {place.name_seconds} seconds"
    if place.node_rank == 0:
        reason = "DnsFailed"
        message = (
            f"{what}, though it is this pod's own: see whether the cluster's DNS (CoreDNS) runs and can be reached"
        )
    else:
        reason, message = "RendezvousFailed", f"the nodes of this attempt did not find one another: {what}"
    return _failed(Failure(exit_code=ExitCode.INFRASTRUCTURE, reason=reason, message=message))


def _failed(failure: Failure, *, checkpoint_of: Outcome | None = None) -> Outcome:
    return Outcome(
        exit_code=failure.exit_code,
        failure=failure,
        checkpoint=checkpoint_of.checkpoint if checkpoint_of else None,
        step=failure.step,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
