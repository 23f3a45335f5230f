"""The store made equal to what the API server has: whole objects first, then their metadata alone."""

import asyncio
from typing import Any

from finetune_operator.backends.kubernetes.client import METADATA_ONLY, Api, Object
from finetune_operator.backends.kubernetes.kinds import JOBS, PODS, RUNS, Kind
from finetune_operator.backends.kubernetes.refill import refill
from finetune_operator.backends.kubernetes.store import RunKey, Store
from support import kube_objects as objects
from support.listing_api import ListingApi

KEY = RunKey("team", "huanhuan")


def news(api: ListingApi, store: Store, *, is_filled: bool) -> set[RunKey]:
    """The runs of which a refill brought news."""

    async def collected() -> set[RunKey]:
        told: Any = api
        return {key async for key in refill(told, store, (None,), is_filled=is_filled)}

    return asyncio.run(collected())


def run_body(version: int) -> Object:
    """The run, at that version."""
    return {"metadata": objects.metadata("huanhuan", version=version), "spec": {}}


def test_the_first_time_everything_is_taken_from_the_lists() -> None:
    api, store = ListingApi({RUNS: [run_body(5)], JOBS: [objects.job(meta={"version": 6})]}), Store()
    assert news(api, store, is_filled=False) == {KEY}
    assert store.run(KEY) is not None
    assert len(store.children(JOBS, KEY)) == 1
    assert api.asked == []


def test_what_is_known_is_neither_asked_for_nor_news() -> None:
    api, store = ListingApi({RUNS: [run_body(5)], JOBS: [objects.job(meta={"version": 6})]}), Store()
    news(api, store, is_filled=False)
    assert news(api, store, is_filled=True) == set()
    assert api.asked == []


def test_what_a_watch_has_missed_is_asked_for_whole() -> None:
    api, store = ListingApi({JOBS: [objects.job(meta={"version": 6})]}), Store()
    news(api, store, is_filled=False)
    api.objects_of[JOBS] = [objects.job(meta={"version": 9})]
    assert news(api, store, is_filled=True) == {KEY}
    assert api.asked == ["huanhuan-r1"]
    assert "spec" in store.children(JOBS, KEY)[0]


def test_a_deletion_that_a_watch_has_missed_is_news() -> None:
    api, store = ListingApi({PODS: [objects.pod(version=6)]}), Store()
    news(api, store, is_filled=False)
    api.objects_of[PODS] = []
    assert news(api, store, is_filled=True) == {KEY}
    assert store.children(PODS, KEY) == ()


def test_what_goes_between_the_list_and_the_question_is_left_to_the_next_list() -> None:
    api, store = ListingApi({JOBS: [objects.job(meta={"version": 6})]}), Store()
    api.gone.add("huanhuan-r1")
    assert news(api, store, is_filled=True) == set()
    assert store.children(JOBS, KEY) == ()


class EmptyApi(Api):
    """Answers as the API server does to a list of metadata that finds nothing: the items are null."""

    def __init__(self) -> None:
        self.accepted: list[str] = []

    async def call(self, verb: str, kind: Kind, path: str, **options: Any) -> Object:
        self.accepted.append(options["accept"])
        return {"metadata": {"resourceVersion": "7"}, "items": None}


def test_a_list_of_metadata_that_finds_nothing_is_empty() -> None:
    async def collected() -> list[tuple[list[Object], int]]:
        return [page async for page in api.pages(JOBS, None, metadata_only=True)]

    api = EmptyApi()
    assert asyncio.run(collected()) == [([], 7)]
    assert api.accepted == [METADATA_ONLY]
