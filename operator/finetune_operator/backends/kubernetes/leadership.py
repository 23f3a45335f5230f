"""Which of several operators may act: the one that holds a Lease, and for no longer than it holds it.

The holder counts from the moment before it asked, and stops acting (`renew_seconds`) well before others may take over
(`lease_seconds`). They count from when they first saw the Lease as it is, each by its own monotonic clock, so neither a
clock that is wrong nor one that jumps makes two leaders. Should there be two for a moment all the same, no harm is
done: names are fixed, and every write of a status names the version that it replaces.
"""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime

from finetune_operator.backends.kubernetes.client import Api, ApiError, ConflictError, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import LEASES
from finetune_operator.settings import LeaderElection

logger = logging.getLogger(__name__)


class Leadership:
    """One candidate's side of the election."""

    def __init__(self, api: Api, terms: LeaderElection, identity: str) -> None:
        """`identity` is this process's alone: one that was started again in the same pod is another candidate."""
        self._api = api
        self._terms = terms
        self._identity = identity
        self._held_until = 0.0
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0

    def is_held(self) -> bool:
        """Whether this process may act now."""
        return _now() < self._held_until

    async def win(self) -> None:
        """Returns when this process leads, and tries for it as long as that takes."""
        while not await self._try():
            await asyncio.sleep(self._terms.retry_seconds)
        logger.info("%s leads", self._identity)

    async def keep(self) -> None:
        """Renews the Lease, and returns when it is lost: another has it, or the API server did not answer in time."""
        while (left := self._held_until - _now()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await asyncio.sleep(self._terms.retry_seconds)
                    await self._try()

    async def release(self) -> None:
        """Another may lead at once. To be called when nothing acts any more; a Lease that stays runs out by itself."""
        if not self.is_held():
            return
        self._held_until = 0.0
        try:
            lease = await self._api.get(LEASES, self._terms.namespace, self._terms.name)
            if _holder(lease) == self._identity:
                await self._write(lease, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except ApiError as error:
            logger.warning("the Lease %s could not be released: %s", self._terms.name, error)

    async def _try(self) -> bool:
        """One look, and the write that takes or renews the Lease where it may be taken."""
        asked_at = _now()
        try:
            if not await self._taken():
                self._held_until = 0.0
                return False
        except ConflictError:
            return False  # somebody else was faster; the next look shows who
        except ApiError as error:
            logger.warning("the Lease %s could not be looked at or renewed: %s", self._terms.name, error)
            return False
        self._held_until = asked_at + self._terms.renew_seconds
        return True

    async def _taken(self) -> bool:
        """Whether the Lease is this process's now. Raises ApiError."""
        terms, now = self._terms, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours: Object = {"leaseDurationSeconds": terms.lease_seconds, "renewTime": now}
        taken_over = ours | {"holderIdentity": self._identity, "acquireTime": now}
        try:
            lease = await self._api.get(LEASES, terms.namespace, terms.name)
        except NotFoundError:
            metadata = {"name": terms.name, "namespace": terms.namespace}
            body = {"apiVersion": LEASES.api_version, "kind": LEASES.name, "metadata": metadata, "spec": taken_over}
            await self._api.create(LEASES, body)
            return True
        if _holder(lease) == self._identity:
            await self._write(lease, ours)
            return True
        if not self._is_free(lease):
            return False
        changes = _spec(lease).get("leaseTransitions", 0) + 1
        await self._write(lease, taken_over | {"leaseTransitions": changes})
        return True

    def _is_free(self, lease: Object) -> bool:
        """Whether nobody holds it, or its holder has let it run out before our eyes."""
        holder, spec = _holder(lease), _spec(lease)
        if not holder:
            return True
        shown = (holder, spec.get("renewTime", ""))
        if shown != self._seen:
            self._seen, self._seen_at = shown, _now()
        runs_out_after: int = spec.get("leaseDurationSeconds", self._terms.lease_seconds)
        return _now() - self._seen_at >= runs_out_after

    async def _write(self, lease: Object, spec: Object) -> None:
        """Raises ConflictError when the Lease is not as it was read."""
        change = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
        await self._api.patch(LEASES, change, LEASES.path(self._terms.namespace, self._terms.name))


def _spec(lease: Object) -> Object:
    spec: Object = lease.get("spec", {})
    return spec


def _holder(lease: Object) -> str:
    return str(_spec(lease).get("holderIdentity", ""))


def _now() -> float:
    """Monotonic seconds."""
    return asyncio.get_running_loop().time()
