"""The store made equal to what the API server has: this finds what a watch has missed, deletions above all.

The first time whole objects are listed, and after that their metadata alone. Watches miss next to nothing, so nearly
all of a list is known already; the few objects that are news are asked for one by one.
"""

from collections.abc import AsyncIterator, Iterable

from finetune_operator.backends.kubernetes.client import Api, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import WATCHED, Kind, selector
from finetune_operator.backends.kubernetes.store import RunKey, Store, key_of


async def refill(api: Api, store: Store, namespaces: Iterable[str | None], *, is_filled: bool) -> AsyncIterator[RunKey]:
    """Names the run of every piece of news, once the store has it. Raises ApiError."""
    for kind in WATCHED:
        for namespace in namespaces:
            async for key in _refill(api, store, kind, namespace, is_filled=is_filled):
                yield key


async def _refill(
    api: Api, store: Store, kind: Kind, namespace: str | None, *, is_filled: bool
) -> AsyncIterator[RunKey]:
    listed: set[str] = set()
    list_version = 0
    async for items, version in api.pages(kind, namespace, labels=selector(kind), metadata_only=is_filled):
        list_version = version
        for item in items:
            listed.add(item["metadata"]["uid"])
            key = key_of(kind, item)
            if key is None or not store.is_news(kind, item):
                continue
            whole = await _whole(api, kind, item) if is_filled else item
            if whole is not None and store.put(kind, whole):
                yield key
    for key in store.keep_listed(kind, listed, list_version, namespace):
        yield key


async def _whole(api: Api, kind: Kind, item: Object) -> Object | None:
    try:
        return await api.get(kind, item["metadata"]["namespace"], item["metadata"]["name"])
    except NotFoundError:  # gone since: the watch tells, or the next list
        return None
