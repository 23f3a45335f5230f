"""A control plane as tests talk to it: plain calls on one connection, waiting for facts, and a played kubelet."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

from finetune_operator.backends.kubernetes.client import Api, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import RUNS, Kind
from finetune_operator.names import RUN_LABEL
from harness import ControlPlane, Write
from support.kubelet import Kubelet

Result = TypeVar("Result")

NAMESPACES = Kind("", "v1", "namespaces", "Namespace")


class Control:
    """Synchronous on the outside: `do` runs a coroutine to its end on the loop that owns the connections."""

    def __init__(self, plane: ControlPlane, runner: asyncio.Runner, api: Api, operator_user: str) -> None:
        self.plane = plane
        self.operator_user = operator_user
        self.api = api
        self.kubelet = Kubelet(api)
        self._runner = runner
        self._names = (f"team-{number}" for number in itertools.count(1))

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` returns."""
        return self._runner.run(work)

    def namespace(self) -> str:
        """A new namespace."""
        return self.do(self.new_namespace())

    async def new_namespace(self) -> str:
        """A new namespace."""
        name = next(self._names)
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "namespace": ""}}
        await self.api.call("create", NAMESPACES, NAMESPACES.path(None), body=body)
        return name

    def make(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Create an object."""
        return self.do(self.new(kind, namespace, body))

    async def new(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Create an object."""
        metadata = {**body["metadata"], "namespace": namespace}
        whole = {"apiVersion": kind.api_version, "kind": kind.name, **body, "metadata": metadata}
        return await self.api.create(kind, whole)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object; None when there is none."""
        try:
            return self.do(self.api.get(kind, namespace, name))
        except NotFoundError:
            return None

    def children(self, kind: Kind, namespace: str, run: str) -> list[Object]:
        """What of that kind belongs to a run, by name."""
        items, _ = self.do(self.api.list_all(kind, namespace, labels=f"{RUN_LABEL}={run}"))
        return sorted(items, key=lambda item: item["metadata"]["name"])

    def patch(self, kind: Kind, namespace: str, name: str, change: Object) -> Object:
        """Merge `change` into an object, as a person would."""
        return self.do(self.api.patch(kind, change, kind.path(namespace, name)))

    def status(self, namespace: str, name: str) -> Object:
        """The status of a run; empty when there is none."""
        found = self.get(RUNS, namespace, name)
        status: Object = (found or {}).get("status", {})
        return status

    def operator_writes(self, since: datetime | None = None) -> list[Write]:
        """What was written with the operator's account."""
        return [write for write in self.plane.audit.writes(since) if write.user == self.operator_user]

    def wait(self, what: str, fact: Callable[[], Result], timeout: float = 30) -> Result:
        """What `fact` returns, once that is true."""
        deadline = time.monotonic() + timeout
        while not (found := fact()):
            assert time.monotonic() < deadline, f"not after {timeout:.0f} s: {what}"
            self.do(asyncio.sleep(0.05))
        return found

    def _told(self, namespace: str, name: str) -> str:
        status = self.status(namespace, name)
        return json.dumps({key: status.get(key) for key in ("phase", "conditions", "attempts", "progress")}, indent=1)

    def wait_phase(self, namespace: str, name: str, phase: str, timeout: float = 30) -> Object:
        """The status of a run, once it is in `phase`."""
        try:
            self.wait(f"{name} {phase}", lambda: self.status(namespace, name).get("phase") == phase, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}, but\n{self._told(namespace, name)}") from None
        return self.status(namespace, name)
