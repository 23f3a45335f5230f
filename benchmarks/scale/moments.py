"""When each object was created, had its pods, ran, and was done: by this process's clock, from watches."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import aiohttp
from contenders import Contender

from finetune_operator.backends.kubernetes.client import Api, Object
from finetune_operator.backends.kubernetes.kinds import PODS, Kind

_MAX_LINE_BYTES = 4 * 1024 * 1024


async def follow(api: Api, kind: Kind, namespace: str) -> AsyncIterator[Object]:
    """Objects of that namespace as they change, from now on. A watch that lags is closed, and goes on where it was."""
    _, version = await api.list_all(kind, namespace)
    while True:
        async for event in _watched(api, kind, namespace, version):
            if event["type"] == "ERROR":  # too far behind: what is there now has to do
                items, version = await api.list_all(kind, namespace)
                for item in items:
                    yield item
                break
            version = int(event["object"]["metadata"]["resourceVersion"])
            yield event["object"]


async def _watched(api: Api, kind: Kind, namespace: str, version: int) -> AsyncIterator[Object]:
    """Events after `version`, until the API server closes the watch."""
    client = api._client
    url = client.configuration.host + kind.path(namespace)
    query = {"watch": "true", "timeoutSeconds": "7200", "resourceVersion": str(version)}
    session = client.rest_client.pool_manager
    async with session.get(url, params=query, timeout=aiohttp.ClientTimeout(total=None)) as answer:
        rest = b""
        async for chunk in answer.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            assert len(rest) < _MAX_LINE_BYTES
            for line in lines:
                yield json.loads(line)


@dataclass
class Moments:
    """Seconds on the monotonic clock, by object."""

    contender: Contender
    nodes: int
    created: dict[str, float] = field(default_factory=dict)
    pods: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, set[str]] = field(default_factory=dict)
    _started: dict[str, set[str]] = field(default_factory=dict)

    async def watch_pods(self, api: Api, namespace: str) -> None:
        """Until cancelled."""
        async for pod in follow(api, PODS, namespace):
            name = self.contender.owner(pod)
            if name is None:
                continue
            _note(self._seen, self.pods, name, pod, self.nodes)
            if pod.get("status", {}).get("phase") in ("Running", "Succeeded"):
                _note(self._started, self.running, name, pod, self.nodes)

    async def watch_objects(self, api: Api, namespace: str) -> None:
        """Until cancelled."""
        async for item in follow(api, self.contender.kind, namespace):
            if self.contender.is_done(item):
                self.done.setdefault(item["metadata"]["name"], time.monotonic())

    async def wait(self, count: int, patience_seconds: float) -> None:
        """Until so many are done, or nothing has been for so long. The watch of pods may lag behind that of objects."""
        last, known = time.monotonic(), 0
        while min(map(len, (self.pods, self.running, self.done))) < count:
            await asyncio.sleep(0.2)
            if len(self.done) != known:
                last, known = time.monotonic(), len(self.done)
            if time.monotonic() - last > patience_seconds:
                raise SystemExit(f"{known} of {count} were done, and no other for {patience_seconds:.0f} s")

    def latencies(self) -> dict[str, dict[str, float]]:
        """Seconds from an object's creation."""
        return {
            "create_to_pods_seconds": percentiles(self._since_creation(self.pods)),
            "create_to_running_seconds": percentiles(self._since_creation(self.running)),
            "create_to_done_seconds": percentiles(self._since_creation(self.done)),
        }

    def _since_creation(self, moments: dict[str, float]) -> list[float]:
        assert moments.keys() == self.created.keys()
        return [moment - self.created[name] for name, moment in moments.items()]


def _note(seen: dict[str, set[str]], at: dict[str, float], name: str, pod: Object, nodes: int) -> None:
    pods = seen.setdefault(name, set())
    pods.add(pod["metadata"]["name"])
    if len(pods) == nodes:
        at.setdefault(name, time.monotonic())


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Median, what 99 of 100 stay under, and the largest."""
    ordered = sorted(values)
    p50, p99 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99))
    return {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(ordered[-1], 2)}
