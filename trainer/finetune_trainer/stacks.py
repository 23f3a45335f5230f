"""What a rank was in the middle of: asked for by a signal, answered by the interpreter itself, read by the launcher.

`faulthandler` writes the stacks of all threads from within the signal's handler, whether or not Python code can run:
a thread that is stuck in a collective does not keep it from it. A process that is stopped, or waits in the kernel for a
disk that does not answer, cannot write; then its state is what is known.
"""

import faulthandler
import re
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FRAME: Final = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)$', re.MULTILINE)
_HEAD: Final = re.compile(r"^rank (?P<rank>\d+) on (?P<host>\S+): ")
_NO_STACK: Final = "no stack: "

_WAITING: Final = (
    "/torch/distributed/",
    "finetune_trainer/distributed.py",
    "finetune_trainer/readback.py",
    "/torch/autograd/graph.py",
)
"""Where a rank may be that waits for others: in a collective, for the device, which is in one, or in a backward pass,
which begins them."""

_STATES: Final = {
    "T": "it is stopped (SIGSTOP, or a frozen container)",
    "t": "a debugger holds it",
    "D": "it waits in the kernel, as for a disk or a device that does not answer",
    "Z": "it has ended",
}


def answer_requests(file: Path) -> None:
    """From now on SIGUSR1 writes the stacks of all threads of this process to `file`."""
    output = open(file, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    faulthandler.register(signal.SIGUSR1, file=output, all_threads=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is known of one rank of a hung run."""

    rank: int
    host: str
    place: str | None
    """The innermost line of our own that its main thread is in, and the function that this one called."""
    waits: bool
    """Whether it may be waiting for other ranks."""
    silence: str | None
    """Why there is no stack."""


def account_text(rank: int, host: str, news: str, stack: str, state: str | None) -> str:
    """What is kept of a rank: where and for how long it stands, then its stacks, or why there are none.

    `state` is the process's state as /proc tells it, None where nobody does.
    """
    body = stack or f"{_NO_STACK}{_STATES.get(state or '', 'it did not answer')}\n"
    return f"rank {rank} on {host}: {news}\n\n{body}"


def read_account(text: str) -> Account | None:
    """The inverse of `account_text`; None: it is no such text, or not whole yet."""
    head = _HEAD.match(text)
    if head is None or not text.endswith("\n"):
        return None
    rank, host = int(head["rank"]), head["host"]
    body = text.partition("\n\n")[2]
    if body.startswith(_NO_STACK):
        silence = body.removeprefix(_NO_STACK).strip()
        return Account(rank=rank, host=host, place=None, waits=False, silence=silence)
    frames = [frame.groupdict() for frame in _FRAME.finditer(_main_thread(body))]
    return Account(
        rank=rank,
        host=host,
        place=_place(frames),
        waits=any(mark in frame["file"] for frame in frames for mark in _WAITING),
        silence=None,
    )


def process_state(process_id: int) -> str | None:
    """One letter, as `ps` has it; None where the system does not tell."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return None


def cannot_answer(process_id: int) -> bool:
    """Whether a signal would find nobody: the process is stopped or has ended."""
    return process_state(process_id) in ("T", "t", "Z")


def _main_thread(stacks: str) -> str:
    """The stack of the thread that the process began with, which is written last."""
    threads = [each for each in stacks.split("\n\n") if "most recent call first" in each]
    return next((each for each in threads if "in _run_module_as_main" in each), threads[-1] if threads else "")


def _place(frames: Sequence[dict[str, str]]) -> str | None:
    if not frames:
        return None
    innermost = frames[0]
    own = next((frame for frame in frames if "/finetune_trainer/" in frame["file"]), innermost)
    file = own["file"].rpartition("/finetune_trainer/")[2]
    below = "" if own is innermost else f", which called {innermost['name']}"
    return f"{file}:{own['line']} ({own['name']}{below})"


def apart(accounts: Sequence[Account]) -> tuple[Account, ...]:
    """The ranks that stand elsewhere than the others, which are those that the others wait for; () if none does.

    A rank that gave no stack comes first, then those that wait for nobody, then those that are where few are.
    """
    silent = [each for each in accounts if each.silence is not None]
    busy = [each for each in accounts if not each.waits]
    places = Counter(each.place for each in accounts)
    (common, count), *_ = places.most_common(1)
    elsewhere = [each for each in accounts if each.place != common] if 2 * count > len(accounts) else []
    for some in (silent, busy, elsewhere):
        if 0 < len(some) < len(accounts):
            return tuple(some)
    return ()


def comparison(accounts: Sequence[Account]) -> str:
    """Who stands where, in words: the ranks apart, and where the others are."""
    odd = apart(accounts)
    if not odd:
        return _places(accounts)
    rest = [each for each in accounts if each not in odd]
    (place, _), *_ = Counter(each.place for each in rest).most_common(1)
    verb = "wait" if all(each.waits for each in rest) else "stand"
    others = f"rank {rest[0].rank} {verb}s" if len(rest) == 1 else f"the others {verb}"
    return f"{'; '.join(map(_told, odd[:4]))}; {others} in {place}"


def _told(account: Account) -> str:
    where = f"rank {account.rank} on {account.host}"
    if account.silence is not None:
        return f"{where} gave no stack: {account.silence}"
    return f"{where} is in {account.place}"


def _places(accounts: Sequence[Account]) -> str:
    if all(each.silence is not None for each in accounts):
        return f"no rank gave a stack: {accounts[0].silence}"
    if len({each.place for each in accounts}) == 1:
        return f"every rank is in {accounts[0].place}" if len(accounts) > 1 else f"it is in {accounts[0].place}"
    return "; ".join(f"rank {each.rank} is in {each.place}" for each in accounts[:8])
