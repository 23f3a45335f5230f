"""Whole lives: many objects created at once, each until its end, and the time in which nothing happens afterwards."""

import asyncio
import os
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import kubeflow
import usage
from arena import Arena, make_team
from contenders import Contender, Kubeflow, Ours, PlainJobs
from moments import Moments

from finetune_operator.backends.kubernetes.client import Api
from harness import ControlPlane
from support.operator_process import OperatorProcess

CLIENTS = 16
"""Requests that create objects at the same time."""
PATIENCE_SECONDS = 180
_SETTLE_SECONDS = 15


def measure_all(
    arena: Arena, sizes: list[int], nodes: int, against: list[str], idle_seconds: float
) -> list[dict[str, Any]]:
    """One after the other on the same control plane, on which what is done stays; what each came to."""
    return [
        found
        for count in sizes
        for who in ("jobs", "kubeflow", "ours")
        if who == "ours" or who in against
        for found in [_measured(arena, who, count, nodes, idle_seconds)]
    ]


def _measured(arena: Arena, who: str, count: int, nodes: int, idle_seconds: float) -> dict[str, Any]:
    plane, namespace = arena.plane, f"{who}-{count}x{nodes}"
    make_team(plane, namespace)
    with ExitStack() as stack:
        if who == "ours":
            operator = stack.enter_context(arena.operator())
            found = _measured_ours(arena, operator, namespace, count, nodes, idle_seconds)
        elif who == "kubeflow":
            contender = Kubeflow(stack.enter_context(kubeflow.running(plane)))
            found = asyncio.run(_life(plane, contender, namespace, count, nodes))
        else:
            found = asyncio.run(_life(plane, PlainJobs(), namespace, count, nodes))
    return found


def _measured_ours(
    arena: Arena, operator: OperatorProcess, namespace: str, count: int, nodes: int, idle_seconds: float
) -> dict[str, Any]:
    """A life as of everybody, and what only this operator tells: its API calls, and its idle cost."""
    contender = Ours(operator.process_id, arena.user)
    before = api_calls(operator)
    found = asyncio.run(_life(arena.plane, contender, namespace, count, nodes))
    calls = api_calls(operator) - before
    found["api_calls_per_run"] = {what: round(number / count, 3) for what, number in sorted(calls.items())}
    found["api_calls_per_run_in_all"] = round(calls.total() / count, 2)
    if idle_seconds:
        time.sleep(_SETTLE_SECONDS)  # what was under way comes to its end
        found["idle"] = _idle(arena.plane, operator, contender, idle_seconds)
    return found


def _idle(plane: ControlPlane, operator: OperatorProcess, contender: Ours, seconds: float) -> dict[str, Any]:
    """What the operator does while nothing happens."""
    (process,) = contender.processes()
    before, cpu_seconds, began = api_calls(operator), process.cpu_seconds(), datetime.now(UTC)
    time.sleep(seconds)
    calls, used_seconds = api_calls(operator) - before, process.cpu_seconds() - cpu_seconds
    return {
        "seconds": seconds,
        "writes": sum(write.user in contender.users for write in plane.audit.writes(since=began)),
        "calls": dict(calls),
        "share_of_a_core": round(used_seconds / seconds, 4),
        "memory_mib": round(process.memory_mib()),
    }


def api_calls(operator: OperatorProcess) -> Counter[str]:
    """Calls to the API server beside the watches, by verb and resource, as the operator counts them."""
    found: Counter[str] = Counter()
    for name, value in operator.metrics().items():
        if name.startswith("qwen3_finetune_api_calls_total{"):
            labels = dict(part.split("=") for part in name.partition("{")[2].rstrip("}").replace('"', "").split(","))
            found[f"{labels['verb']} {labels['resource']}"] += int(value)
    return found


async def _life(plane: ControlPlane, contender: Contender, namespace: str, count: int, nodes: int) -> dict[str, Any]:
    os.environ["KUBECONFIG"] = str(plane.kubeconfig)
    api, moments = await Api.connect(), Moments(contender, nodes)
    watches = [asyncio.create_task(watch(api, namespace)) for watch in (moments.watch_pods, moments.watch_objects)]
    began_at = datetime.now(UTC)
    load, processes = os.getloadavg()[0], tuple(contender.processes())
    cpu_seconds, system_seconds = [each.cpu_seconds() for each in processes], _system_seconds(plane)
    try:
        await asyncio.sleep(1)
        began = time.monotonic()
        await _create(api, contender, moments, namespace, count, nodes)
        created_seconds = time.monotonic() - began
        await moments.wait(count, PATIENCE_SECONDS)
        done_seconds = time.monotonic() - began
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await api.close()
    used = [each.cpu_seconds() - before for each, before in zip(processes, cpu_seconds, strict=True)]
    return {
        "who": contender.name,
        "runs": count,
        "pods_per_run": nodes,
        "created_in_seconds": round(created_seconds, 1),
        "all_done_in_seconds": round(done_seconds, 1),
        **moments.latencies(),
        "cpu_seconds": round(sum(used), 1),
        "peak_mib": [round(each.peak_mib()) for each in processes],
        "writes_per_run": _writes(plane, began_at, namespace, count),
        "cpu_seconds_of_kubernetes": {
            name: round(seconds - system_seconds[name], 1) for name, seconds in _system_seconds(plane).items()
        },
        "load_before": round(load, 2),
    }


async def _create(api: Api, contender: Contender, moments: Moments, namespace: str, count: int, nodes: int) -> None:
    left = iter(range(count))

    async def client() -> None:
        for number in left:
            body = contender.body(number, nodes, namespace)
            moments.created[body["metadata"]["name"]] = time.monotonic()
            await api.create(contender.kind, body)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def _writes(plane: ControlPlane, since: datetime, namespace: str, count: int) -> dict[str, float]:
    """Write requests about objects of that namespace, by who made them."""
    made = Counter(write.user for write in plane.audit.writes(since=since) if write.namespace == namespace)
    return {user.rpartition(":")[2]: round(number / count, 2) for user, number in made.most_common()}


def _system_seconds(plane: ControlPlane) -> dict[str, float]:
    names = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kwok")
    known = {name: plane.run.processes.identity(name) for name in names}
    return {name: usage.Process(identity.pid).cpu_seconds() for name, identity in known.items() if identity}
