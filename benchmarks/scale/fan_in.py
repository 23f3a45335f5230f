"""A thousand runs that train at the same time: how old is the progress that their status shows, and what it costs."""

import asyncio
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from arena import PODS, Arena, make_team
from contenders import Ours
from lives import CLIENTS, api_calls
from moments import follow, percentiles

from finetune_operator.backends.kubernetes.client import Api, Object
from finetune_operator.backends.kubernetes.kinds import RUNS
from finetune_operator.settings import Settings
from harness import ControlPlane
from harness.shell import run
from support.operator_process import OperatorProcess

STEP_SECONDS = 1.0
PATIENCE_SECONDS = 300
NAMESPACE = "running"


class Shown:
    """The progress that every run's status shows, as a client that watches sees it."""

    def __init__(self) -> None:
        self.updated_at: dict[str, float] = {}

    async def watch(self, api: Api) -> None:
        """Until cancelled."""
        async for item in follow(api, RUNS, NAMESPACE):
            progress = item.get("status", {}).get("progress")
            if progress is not None and item["status"]["phase"] == "Running":
                self.updated_at[item["metadata"]["name"]] = datetime.fromisoformat(progress["updatedAt"]).timestamp()

    def ages(self) -> list[float]:
        """Seconds since the step that each run shows."""
        return [time.time() - updated_at for updated_at in self.updated_at.values()]


def measure(arena: Arena, count: int, seconds: float) -> dict[str, Any]:
    """`count` runs that train for `seconds`, and then stand still for as long."""
    make_team(arena.plane, NAMESPACE)
    with _addresses(), _stub(arena.plane) as stub, arena.operator() as operator:
        return asyncio.run(_measured(arena, operator, stub, count, seconds))


async def _measured(arena: Arena, operator: OperatorProcess, stub: int, count: int, seconds: float) -> dict[str, Any]:
    plane = arena.plane
    os.environ["KUBECONFIG"] = str(plane.kubeconfig)
    api, shown = await Api.connect(), Shown()
    contender = Ours(operator.process_id, arena.user)
    watch = asyncio.create_task(shown.watch(api))
    try:
        await asyncio.sleep(1)
        await _create(api, [contender.body(number, 1, NAMESPACE) for number in range(count)])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(shown.updated_at) < count:
            assert time.monotonic() < deadline, f"only {len(shown.updated_at)} of {count} show progress"
            await asyncio.sleep(1)
        await asyncio.sleep(20)  # the burst of beginnings is over
        found = {
            "runs": count,
            "interval_seconds": Settings().progress_interval_seconds,
            "training": await _window(plane, operator, contender, shown, seconds),
        }
        os.kill(stub, signal.SIGUSR1)
        await asyncio.sleep(2 * Settings().progress_interval_seconds)  # the last steps come in
        still = await _window(plane, operator, contender, shown, seconds)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await api.close()
    return found | {"standing_still": {key: still[key] for key in ("status_patches", "writes", "share_of_a_core")}}


async def _create(api: Api, bodies: list[Object]) -> None:
    left = iter(bodies)

    async def client() -> None:
        for body in left:
            await api.create(RUNS, body)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def _window(
    plane: ControlPlane, operator: OperatorProcess, contender: Ours, shown: Shown, seconds: float
) -> dict[str, Any]:
    """What is shown and done in the next `seconds`."""
    (process,) = contender.processes()
    began_at, cpu_seconds, before = datetime.now(UTC), process.cpu_seconds(), api_calls(operator)
    ages: list[float] = []
    oldest: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(1)
        now = shown.ages()
        ages += now
        oldest.append(max(now))
    used_seconds, calls = process.cpu_seconds() - cpu_seconds, api_calls(operator) - before
    writes = [write for write in plane.audit.writes(since=began_at) if write.user in contender.users]
    patches: dict[str, list[float]] = defaultdict(list)
    for write in writes:
        if write.subresource == "status":
            patches[write.name].append(write.at.timestamp())
    gaps = [b - a for moments in patches.values() for a, b in pairwise(moments)]
    return {
        "seconds": seconds,
        "age_seconds": percentiles(ages),
        "oldest_of_all_seconds": percentiles(oldest),
        "share_of_a_core": round(used_seconds / seconds, 3),
        "status_patches": sum(map(len, patches.values())),
        "seconds_between_patches_of_a_run": {
            "shortest": round(min(gaps), 2) if gaps else None,
            **(percentiles(gaps) if gaps else {}),
        },
        "writes": len(writes),
        "calls": dict(calls),
        "memory_mib": round(process.memory_mib()),
        "load_1min": round(os.getloadavg()[0], 2),
    }


@contextmanager
def _addresses() -> Iterator[None]:
    """Pods' addresses lead to this machine, all of them; loopback addresses would not do, endpoints may not be such."""
    route = ("local", PODS, "dev", "lo")
    run(["ip", "route", "replace", *route])
    try:
        yield
    finally:
        run(["ip", "route", "delete", *route])


@contextmanager
def _stub(plane: ControlPlane) -> Iterator[int]:
    """The process that answers for every rank 0; its id."""
    words: list[str | Path] = [sys.executable, Path(__file__).with_name("stub.py"), str(STEP_SECONDS)]
    plane.run.processes.start("stub", words)
    identity = plane.run.processes.identity("stub")
    assert identity is not None
    try:
        yield identity.pid
    finally:
        plane.run.processes.stop(("stub",))
