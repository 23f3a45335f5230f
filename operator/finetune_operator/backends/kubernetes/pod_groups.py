"""The PodGroups of attempts that a gang scheduler binds: made once, and made anew if somebody deletes them."""

import time
from collections.abc import Callable

from finetune_operator.backends.kubernetes.client import Api, ConflictError, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import POD_GROUPS

FRESH_SECONDS = 60.0


class PodGroups:
    """Nothing watches them, since most clusters have none: one that was seen is believed for FRESH_SECONDS."""

    def __init__(self, api: Api, ticks: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._ticks = ticks
        self._seen_at: dict[str, float] = {}

    async def keep(self, manifest: Object) -> None:
        """The PodGroup of a Job is there. Raises ApiError, such as NotFoundError where the cluster knows no PodGroups.

        Raises ConflictError while one of a namesake's attempt is.
        """
        [job] = manifest["metadata"]["ownerReferences"]
        now = self._ticks()
        if now - self._seen_at.get(job["uid"], float("-inf")) < FRESH_SECONDS:
            return
        live = await self._there(manifest)
        if job["uid"] not in {owner["uid"] for owner in live["metadata"].get("ownerReferences", ())}:
            raise ConflictError(f"PodGroup {live['metadata']['name']}", 409, "it belongs to another Job of that name")
        recent = {uid: at for uid, at in self._seen_at.items() if now - at < FRESH_SECONDS}
        self._seen_at = recent | {job["uid"]: now}

    async def _there(self, manifest: Object) -> Object:
        kind, metadata = POD_GROUPS[manifest["apiVersion"]], manifest["metadata"]
        try:
            return await self._api.get(kind, metadata["namespace"], metadata["name"])
        except NotFoundError:
            return await self._api.create(kind, manifest)
