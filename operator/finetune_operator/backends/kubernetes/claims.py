"""The volume claims of a run: which are not there, and which have no volume yet."""

from dataclasses import dataclass

from finetune_operator import manifests
from finetune_operator.backends.kubernetes.client import Api, NotFoundError, Object
from finetune_operator.backends.kubernetes.complaints import Complaints
from finetune_operator.backends.kubernetes.kept import KeptAnswers
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

    def __init__(self, api: Api, store: Store, complaints: Complaints) -> None:
        self._api = api
        self._store = store
        self._complaints = complaints
        self._named = KeptAnswers(self._ask, _fresh_seconds)

    async def look(self, run: Qwen3FineTune, key: RunKey) -> ClaimsSeen:
        """The claims of `run` that keep it from going on."""
        missing, found = [], list(self._store.children(CLAIMS, key))
        for name in manifests.named_claims(run):
            claim = await self._named.get((key.namespace, name))
            if claim is None:
                missing.append(name)
            else:
                found.append(claim)
        unbound = [await self._state(claim) for claim in found if not _is_bound(claim)]
        return ClaimsSeen(tuple(unbound), tuple(missing))

    async def _ask(self, claim: tuple[str, str]) -> Object | None:
        try:
            return await self._api.get(CLAIMS, *claim)
        except NotFoundError:
            return None

    async def _state(self, claim: Object) -> ClaimState:
        message = await self._complaints.about(CLAIMS, claim)
        if message is None and claim.get("status", {}).get("phase") == "Lost":
            message = "its volume is lost"
        return ClaimState(name=claim["metadata"]["name"], is_bound=False, message=message)


def _fresh_seconds(claim: Object | None) -> float:
    return BOUND_SECONDS if claim is not None and _is_bound(claim) else PENDING_SECONDS


def _is_bound(claim: Object) -> bool:
    return bool(claim.get("status", {}).get("phase") == "Bound")
