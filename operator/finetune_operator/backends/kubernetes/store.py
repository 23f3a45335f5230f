"""What the API server last said of every run and of everything that belongs to one.

A cache, and nothing but a cache: watches and the operator's own writes fill it, `refill` makes it equal to a fresh
list, and it is filled whole before the first pass. The newer resourceVersion wins, so it does not matter in which order
a watch, a list and the answer to a write arrive; and an event that tells nothing new wakes nobody, which is why the
operator's own writes cause no second pass.

One thing outlives the API server's knowledge: a worker's pod that ended and went is shown in its last state until a
pass has seen that state, because it carries what the trainer said when it ended.
"""

from collections import defaultdict, deque
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import PODS, RUNS, Kind
from finetune_operator.backends.kubernetes.slim import slim
from finetune_operator.names import ATTEMPT_LABEL, RUN_LABEL

REMEMBERED_DELETIONS = 20_000
"""Uids of deleted objects that a list or an event on its way must not bring back."""


class RunKey(NamedTuple):
    """Names one run of the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Store:
    """Objects by kind, run and name."""

    def __init__(self) -> None:
        self._shelves: dict[Kind, dict[RunKey, dict[str, Object]]] = defaultdict(dict)
        self._departed: dict[RunKey, dict[str, Object]] = {}
        self._told: dict[RunKey, set[str]] = {}
        self._deleted: set[str] = set()
        self._deletions: deque[str] = deque()

    def run(self, key: RunKey) -> Object | None:
        """The resource with its status."""
        return self.child(RUNS, key, key.name)

    def runs(self) -> tuple[RunKey, ...]:
        """Every run."""
        return tuple(self._shelves[RUNS])

    def children(self, kind: Kind, key: RunKey) -> tuple[Object, ...]:
        """What of that kind carries the run's label."""
        return tuple(self._shelves[kind].get(key, {}).values())

    def child(self, kind: Kind, key: RunKey, name: str) -> Object | None:
        """One of them."""
        return self._shelves[kind].get(key, {}).get(name)

    def departed(self, key: RunKey) -> tuple[Object, ...]:
        """Workers' pods that ended and are gone, and whose end no pass has seen yet."""
        return tuple(self._departed.get(key, {}).values())

    def ended_pods(self, key: RunKey) -> frozenset[str]:
        """Uids of the pods, gone or not, that a pass which begins now will see in their last state."""
        pods = (*self.children(PODS, key), *self.departed(key))
        return frozenset(pod["metadata"]["uid"] for pod in pods if _has_ended(pod))

    def told(self, key: RunKey, uids: Iterable[str]) -> bool:
        """A pass has seen the end of these pods; whether one of them was kept for that alone, and is let go now."""
        uids = set(uids)
        self._told[key] = uids
        kept = self._departed.pop(key, {})
        left = {uid: pod for uid, pod in kept.items() if uid not in uids}
        if left:
            self._departed[key] = left
        return len(left) < len(kept)

    def put(self, kind: Kind, item: Object) -> bool:
        """Take in what a watch, a list or a write's answer said; whether it is news."""
        key = key_of(kind, item)
        if key is None or not self.is_news(kind, item):
            return False
        self._shelves[kind].setdefault(key, {})[item["metadata"]["name"]] = slim(kind, item)
        return True

    def is_news(self, kind: Kind, item: Object) -> bool:
        """Whether `put` would take it in; its metadata is enough to say so."""
        key, metadata = key_of(kind, item), item["metadata"]
        if key is None or metadata["uid"] in self._deleted:
            return False
        known = self.child(kind, key, metadata["name"])
        return known is None or _version(known) < _version(item)

    def remove(self, kind: Kind, item: Object) -> bool:
        """Take in that the object is gone, `item` being its last state; whether it is news."""
        key, metadata = key_of(kind, item), item["metadata"]
        if key is None or metadata["uid"] in self._deleted:
            return False
        self._remember_deletion(metadata["uid"])
        self._take_off(kind, key, metadata)
        if kind is RUNS:
            self._departed.pop(key, None)
            self._told.pop(key, None)
        elif kind is PODS and _is_worker(item) and _has_ended(item) and metadata["uid"] not in self._told.get(key, ()):
            self._departed.setdefault(key, {})[metadata["uid"]] = slim(kind, item)
        return True

    def keep_listed(self, kind: Kind, uids: Container[str], list_version: int, namespace: str | None) -> set[RunKey]:
        """Let go of what a list of that version does not name, unless it is newer; the runs that lost something."""
        gone = [
            item
            for item in self._all(kind, namespace)
            if item["metadata"]["uid"] not in uids and _version(item) <= list_version
        ]
        keys = [key_of(kind, item) for item in gone if self.remove(kind, item)]
        return {key for key in keys if key is not None}

    def _all(self, kind: Kind, namespace: str | None) -> Iterator[Object]:
        for key, shelf in self._shelves[kind].items():
            if namespace in (None, key.namespace):
                yield from shelf.values()

    def _take_off(self, kind: Kind, key: RunKey, metadata: Object) -> None:
        shelf = self._shelves[kind].get(key, {})
        known = shelf.get(metadata["name"])
        if known is not None and known["metadata"]["uid"] == metadata["uid"]:
            del shelf[metadata["name"]]
        if not shelf:
            self._shelves[kind].pop(key, None)

    def _remember_deletion(self, uid: str) -> None:
        self._deleted.add(uid)
        self._deletions.append(uid)
        if len(self._deletions) > REMEMBERED_DELETIONS:
            self._deleted.discard(self._deletions.popleft())


def key_of(kind: Kind, item: Object) -> RunKey | None:
    """The run that an object is, or belongs to by its label; None without the label."""
    metadata = item["metadata"]
    name = metadata["name"] if kind is RUNS else metadata.get("labels", {}).get(RUN_LABEL)
    return RunKey(metadata["namespace"], name) if name else None


def _version(item: Object) -> int:
    # Comparable as numbers since Kubernetes 1.35 by contract, and with etcd behind the API server always.
    return int(item["metadata"]["resourceVersion"])


def _is_worker(pod: Object) -> bool:
    return ATTEMPT_LABEL in pod["metadata"].get("labels", {})


def _has_ended(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or any(
        "terminated" in status.get("state", {}) for status in statuses
    )
