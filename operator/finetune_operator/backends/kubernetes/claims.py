"""The volume claims of a run: which are not there, and which have no volume yet."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from finetune_operator import manifests
from finetune_operator.backends.kubernetes.client import Api, NotFoundError, Object
from finetune_operator.backends.kubernetes.complaints import Complaints
from finetune_operator.backends.kubernetes.kinds import CLAIMS
from finetune_operator.backends.kubernetes.store import RunKey, Store
from finetune_operator.observation import ClaimState
from finetune_operator.resource import Qwen3FineTune

BOUND_SECONDS = 600.0
"""A bound claim stays bound; it is looked at again so that one which was deleted and made anew is not taken for it."""
PENDING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ClaimsSeen:
    """What an Observation says about claims."""

    unbound: tuple[ClaimState, ...]
    missing: tuple[str, ...]


class Claims:
    """Claims that were made for a run come from the store; those of others, which the spec names, are asked for."""

    def __init__(self, api: Api, store: Store, complaints: Complaints, clock: Callable[[], float]) -> None:
        self._api = api
        self._store = store
        self._complaints = complaints
        self._clock = clock
        self._kept: dict[tuple[str, str], tuple[float, Object | None]] = {}

    async def look(self, run: Qwen3FineTune, key: RunKey) -> ClaimsSeen:
        """The claims of `run` that keep it from going on."""
        missing, found = [], list(self._store.children(CLAIMS, key))
        for name in manifests.named_claims(run):
            claim = await self._named(key.namespace, name)
            if claim is None:
                missing.append(name)
            else:
                found.append(claim)
        unbound = [await self._state(claim) for claim in found if not _is_bound(claim)]
        return ClaimsSeen(tuple(unbound), tuple(missing))

    async def _named(self, namespace: str, name: str) -> Object | None:
        at, claim = self._kept.get((namespace, name), (-math.inf, None))
        keep_seconds = BOUND_SECONDS if claim and _is_bound(claim) else PENDING_SECONDS
        if self._clock() - at > keep_seconds:
            try:
                claim = await self._api.get(CLAIMS, namespace, name)
            except NotFoundError:
                claim = None
            self._kept[namespace, name] = (self._clock(), claim)
        return claim

    async def _state(self, claim: Object) -> ClaimState:
        message = await self._complaints.about(CLAIMS, claim)
        if message is None and claim.get("status", {}).get("phase") == "Lost":
            message = "its volume is lost"
        return ClaimState(name=claim["metadata"]["name"], is_bound=False, message=message)


def _is_bound(claim: Object) -> bool:
    return bool(claim.get("status", {}).get("phase") == "Bound")
