"""Plays the kubelet on a control plane that has none: binds pods, lets them run and end, and finishes their deletion.

Everything else about pods and Jobs is real: the Job controller makes, counts and deletes them.
"""

from typing import Any

from finetune_contract import Outcome, PrepareOutcome, PushOutcome
from finetune_operator.backends.kubernetes.client import Api, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import NODES, PODS

NODE = "played-node"
STARTED = "2026-01-01T00:00:00Z"


class Kubelet:
    """One node's worth of kubelet, driven by the test."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def make_node(self) -> None:
        """The Node that pods are bound to; it takes no pod by itself."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "namespace": ""}}
        await self._api.call("create", NODES, NODES.path(None), body=body)

    async def pods(self, namespace: str, selector: str | None = None) -> list[Object]:
        """Pods of that namespace, in the order of their completion index."""
        pods, _ = await self._api.list_all(PODS, namespace, labels=selector)
        return sorted(pods, key=lambda pod: pod["metadata"]["name"])

    async def run(self, pod: Object, address: str = "127.0.0.1") -> None:
        """The pod is bound and its container runs."""
        await self._bind(pod)
        container = {"state": {"running": {"startedAt": STARTED}}, "ready": True, "started": True}
        await self._report(pod, phase="Running", container=container, podIP=address, podIPs=[{"ip": address}])

    async def hold_back(self, pod: Object, reason: str, message: str) -> None:
        """The pod is bound, and its container cannot start."""
        await self._bind(pod)
        waiting = {"state": {"waiting": {"reason": reason, "message": message}}, "ready": False}
        await self._report(pod, phase="Pending", container=waiting)

    async def end(self, pod: Object, outcome: Outcome | PrepareOutcome | PushOutcome) -> None:
        """The container ends as the trainer would, with its outcome as termination message."""
        await self.exit(pod, int(outcome.exit_code), outcome.to_message())

    async def exit(self, pod: Object, code: int, message: str = "", reason: str | None = None, **status: Any) -> None:
        """The container ends with that code; `status` adds to the pod's status."""
        terminated = {
            "exitCode": code,
            "message": message,
            "reason": reason or ("Error" if code else "Completed"),
            "startedAt": STARTED,
            "finishedAt": STARTED,
        }
        phase = "Failed" if code else "Succeeded"
        await self._report(pod, phase=phase, container={"state": {"terminated": terminated}, "ready": False}, **status)

    async def remove(self, pod: Object) -> None:
        """The last act of a deletion: nothing of the pod is left on the node."""
        try:
            await self._api.delete(PODS, pod, grace_seconds=0)
        except NotFoundError:
            return

    async def reap(self, namespace: str, outcome: Outcome | None = None) -> None:
        """Every pod that was told to go ends (with `outcome`, if it ran) and is gone."""
        for pod in await self.pods(namespace):
            if "deletionTimestamp" in pod["metadata"]:
                if pod["status"]["phase"] == "Running":
                    await (self.end(pod, outcome) if outcome else self.exit(pod, 143))
                await self.remove(pod)

    async def _bind(self, pod: Object) -> None:
        if pod["spec"].get("nodeName"):
            return
        metadata = {key: pod["metadata"][key] for key in ("name", "namespace", "uid")}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": metadata,
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        await self._api.call("create", PODS, PODS.path(metadata["namespace"], metadata["name"], "binding"), body=body)

    async def _report(self, pod: Object, *, phase: str, container: Object, **status: Any) -> None:
        spec, metadata = pod["spec"]["containers"][0], pod["metadata"]
        known = {"name": spec["name"], "image": spec["image"], "imageID": "", "restartCount": 0}
        change = {"status": {"phase": phase, "containerStatuses": [known | container], **status}}
        await self._api.patch(PODS, change, PODS.path(metadata["namespace"], metadata["name"], "status"))
