"""Kills at random moments, of anything: the end is always right, and the loss curve that of the unbroken run.

An interleaving is drawn from its seed alone: one run of two ranks, and one to three kills at random moments of it. Some
are in flight at the same time, so what one kills of what all share hits the others, too.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from case import Case, Story, attempt, summary
from stage import has_ended, small_run

from harness import HarnessError
from support import faults
from support.kit import SYSTEM

STEPS = 32
LONGEST_WAIT_SECONDS = 40
AWAY_SECONDS = (1, 12)
MAX_KILLS = 3
RESTARTS = 20
"""recovery.maxRestarts: neighbours' kills count as well."""
SHARED = threading.Lock()
"""One death at a time of what all share: two at once would be the machine's end, not a fault."""


@dataclass(frozen=True)
class Kill:
    """One death."""

    after_seconds: float
    """Since the run was applied, or since the kill before."""
    victim: str
    index: int
    """Of the pod, where it is one."""
    away_seconds: float
    """Until what is shared is started again."""

    def __str__(self) -> str:
        of_pod = f" {self.index}" if self.victim in ("rank", "launcher", "pod") else f" for {self.away_seconds:.0f} s"
        return f"{self.victim}{of_pod} after {self.after_seconds:.0f} s"


def drawn(seed: int, number: int) -> list[Kill]:
    """The kills of that interleaving."""
    draw = random.Random(f"{seed}-{number}")  # noqa: S311 - a plan of tests
    count = draw.randint(1, MAX_KILLS)
    return [
        Kill(
            after_seconds=draw.uniform(0, LONGEST_WAIT_SECONDS / count),
            victim=draw.choice(list(VICTIMS)),
            index=draw.randrange(2),
            away_seconds=draw.uniform(*AWAY_SECONDS),
        )
        for _ in range(count)
    ]


def stories(seed: int, numbers: Sequence[int]) -> list[Story]:
    """A story for each interleaving."""
    return [_story(seed, number) for number in numbers]


def _story(seed: int, number: int) -> Story:
    kills = drawn(seed, number)
    title = f"{seed}-{number:02}: {', then '.join(map(str, kills))}"
    return Story(f"random-{seed}-{number:02}", title, lambda case: _tell(case, kills))


def _tell(case: Case, kills: Sequence[Kill]) -> None:
    case.run(nodes=2, steps=STEPS)["spec"]["recovery"] = {"maxRestarts": RESTARTS, "hangTimeoutSeconds": 60}
    case.stage.reference(small_run("any", nodes=2, steps=STEPS))
    case.apply()
    done = []
    for kill in kills:
        time.sleep(kill.after_seconds)  # the moment is what is drawn
        done.append(f"{kill.victim}{'' if _is_done(case, kill) else ' (was not there)'}")
    case.row.named, case.row.is_named = ", ".join(done), True
    status = case.until(has_ended, "the end", 400)
    number = status.get("restarts", 0)
    case.row.decision = summary(status)
    case.row.is_decision_right = all(attempt(status, each + 1).get("decision") for each in range(number + 1))
    case.succeeded(restarts=number)


def _is_done(case: Case, kill: Kill) -> bool:
    """Kills; False when the victim is not there, or the API server that would be asked for it is not."""
    try:
        return VICTIMS[kill.victim](case, kill)
    except HarnessError:
        return False


def _kill_operator(case: Case, _: Kill) -> bool:
    case.stage.cluster.kubectl("-n", SYSTEM, "delete", "pod", "--all", "--force", "--grace-period=0")
    return True


def _kill_rank(case: Case, kill: Kill) -> bool:
    return _killed(case, kill, faults.RANK)


def _kill_launcher(case: Case, kill: Kill) -> bool:
    return _killed(case, kill, faults.LAUNCHER)


def _killed(case: Case, kill: Kill, command: bytes) -> bool:
    newest = max((each["number"] for each in case.status.get("attempts", [])), default=1)
    try:
        faults.send(case.host(kill.index, newest), signal.SIGKILL, command)
    except (AssertionError, ProcessLookupError):
        return False
    return True


def _delete_pod(case: Case, kill: Kill) -> bool:
    pods = case.kit.pods(case.name)
    if not pods:
        return False
    name = pods[min(kill.index, len(pods) - 1)]["metadata"]["name"]
    return case.stage.cluster.kubectl.works("-n", case.kit.team, "delete", "pod", name, "--wait=false")


def _kill_daemon(name: str) -> Callable[[Case, Kill], bool]:
    def kill(case: Case, kill: Kill) -> bool:
        of_plane = name in ("etcd", "kube-apiserver")
        where = case.stage.cluster.control_plane if of_plane else case.stage.cluster.node
        with SHARED, where.crashed(name):
            time.sleep(kill.away_seconds)
        return True

    return kill


VICTIMS: dict[str, Callable[[Case, Kill], bool]] = {
    "operator": _kill_operator,
    "rank": _kill_rank,
    "launcher": _kill_launcher,
    "pod": _delete_pod,
    "API server": _kill_daemon("kube-apiserver"),
    "etcd": _kill_daemon("etcd"),
    "kubelet": _kill_daemon("kubelet"),
}
