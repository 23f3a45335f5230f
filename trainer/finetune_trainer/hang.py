"""What a launcher does about ranks that have come to a stand: ask all for their stacks, keep these, end the attempt.

The launchers of all nodes come here by themselves, at about the same time, since all ranks wait for the one that does
not move. Each waits for the others' stacks on the shared volume before it ends its own ranks: theirs would be told of a
broken connection then, and not of the hang.
"""

import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from finetune_contract import ExitCode, Failure, Outcome, RunConfig
from finetune_contract.paths import ATTEMPTS, STACKS
from finetune_trainer.__main__ import StopFlag
from finetune_trainer.ranks import Ranks
from finetune_trainer.stacks import Account, account_text, apart, cannot_answer, comparison, process_state, read_account
from finetune_trainer.watch import Stand

STACK_SECONDS: Final = 5
"""So long a rank may take to write its stacks."""
OTHERS_SECONDS: Final = 60
"""So long the stacks of other nodes are waited for; NFS may hide a new file for most of that."""
VOLUME_SECONDS: Final = 15
"""So long the volume may take to keep the stacks, and to show those of others once they are there."""
_PAUSE_SECONDS: Final = 0.1


def stacks_dir(config: RunConfig) -> Path:
    """Where the stacks of an attempt that hung lie."""
    return Path(config.output_dir) / ATTEMPTS / str(config.attempt) / STACKS


def ended_for_hang(config: RunConfig, stands: Sequence[Stand], ranks: Ranks, folder: Path, stop: StopFlag) -> Outcome:
    """End this node's `ranks`, of which one at least is hung; the outcome says who stood where."""
    print("no rank of this node gets on: asking for stacks, then ending the attempt", file=sys.stderr, flush=True)
    texts = _own_texts(stands, ranks, folder)
    meeting = _Meeting(stacks_dir(config), texts, config.batch.world_size, stop)
    meeting.start()
    others = OTHERS_SECONDS if len(texts) < config.batch.world_size else 0
    meeting.join(VOLUME_SECONDS + others)
    if not meeting.is_kept:
        print("the output volume does not take the stacks:", *texts.values(), sep="\n", file=sys.stderr, flush=True)
    accounts = [account for text in (texts | meeting.others).values() if (account := read_account(text)) is not None]
    outcome = outcome_of_hang(config, stands, accounts, is_kept=meeting.is_kept)
    print(f"ended for a hang: {outcome.failure.message if outcome.failure else ''}", file=sys.stderr, flush=True)
    ranks.kill()
    return outcome


def _own_texts(stands: Sequence[Stand], ranks: Ranks, folder: Path) -> dict[int, str]:
    """Rank -> what is kept of it."""
    processes = ranks.process_ids()
    stands = [stand for stand in stands if stand.rank in processes]
    ranks.ask_for_stacks()
    deadline = time.monotonic() + STACK_SECONDS
    sizes: dict[int, int] = {}
    while time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
        before, sizes = sizes, {stand.rank: _stacks_file(folder, stand.rank).stat().st_size for stand in stands}
        if sizes == before and all(size or cannot_answer(processes[rank]) for rank, size in sizes.items()):
            break  # none writes any more
    return {
        stand.rank: account_text(
            stand.rank,
            socket.gethostname(),
            f"in {stand.phase}, has not moved for {stand.still_seconds:.0f} seconds",
            _stacks_file(folder, stand.rank).read_text(encoding="utf-8", errors="replace"),
            process_state(processes[stand.rank]),
        )
        for stand in stands
    }


def _stacks_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.stacks"


class _Meeting(threading.Thread):
    """Keeps this node's stacks on the volume, and reads those of the other nodes. A thread, since it may never end."""

    def __init__(self, target: Path, texts: Mapping[int, str], world_size: int, stop: StopFlag) -> None:
        super().__init__(name="stacks", daemon=True)
        self._target, self._texts, self._world_size, self._flag = target, texts, world_size, stop
        self.is_kept = False
        self.others: dict[int, str] = {}

    def run(self) -> None:
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            for rank, text in self._texts.items():
                (self._target / f"rank-{rank}.txt").write_text(text, encoding="utf-8")
            self.is_kept = True
            deadline = time.monotonic() + OTHERS_SECONDS
            while len(self._texts) + len(self.others) < self._world_size and time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
                self.others = self._read()
                if self._flag.requested:
                    return
        except OSError as error:
            print(f"{self._target}: {error}", file=sys.stderr)

    def _read(self) -> dict[int, str]:
        names = {int(file.stem.removeprefix("rank-")): file for file in self._target.glob("rank-*.txt")}
        texts = {rank: file.read_text(encoding="utf-8") for rank, file in names.items() if rank not in self._texts}
        return {rank: text for rank, text in texts.items() if read_account(text) is not None}


def outcome_of_hang(
    config: RunConfig, stands: Sequence[Stand], accounts: Sequence[Account], *, is_kept: bool
) -> Outcome:
    """The outcome of an attempt that hung: `stands` of this node's ranks, `accounts` of all that gave one."""
    longest = max(stands, key=lambda stand: stand.still_seconds - stand.patience_seconds)
    kept = str(stacks_dir(config)) if is_kept else None
    place = f"the stacks of {len(accounts)} ranks are in {kept}" if kept else "the stacks are in the pod's log"
    message = (
        f"{longest.phase}: rank {longest.rank} has not moved for {longest.still_seconds:.0f} seconds, where "
        f"{longest.patience_seconds:.0f} are allowed (recovery.hangTimeoutSeconds is {config.hang_timeout_seconds}); "
        f"{comparison(accounts)}; {place}"
    )
    odd = apart(accounts)
    failure = Failure(
        exit_code=ExitCode.HANG,
        reason="Hang",
        message=message[:2000],
        rank=odd[0].rank if odd else None,
        step=longest.step,
        stacks_dir=kept,
    )
    return Outcome(exit_code=ExitCode.HANG, failure=failure, step=longest.step)
