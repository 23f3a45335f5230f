"""Who leads, for how long, and how soon the next one does. Time is the loop's own, which jumps."""

import asyncio
from typing import Any

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from pydantic import ValidationError

from finetune_operator.backends.kubernetes.client import Api, ApiError, ConflictError, NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import Kind
from finetune_operator.backends.kubernetes.leadership import Leadership
from finetune_operator.settings import LeaderElection
from support.jumping_loop import run

TERMS = LeaderElection(namespace="system", name="kit", lease_seconds=15, renew_seconds=10, retry_seconds=2)


class LeaseServer(Api):
    """One Lease, whose writes must name its version, as the API server asks for it."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.is_away = False
        self.answer_seconds = 0.0

    async def call(self, verb: str, kind: Kind, path: str, **options: Any) -> Object:
        await asyncio.sleep(self.answer_seconds)
        if self.is_away:
            raise ApiError(path, 0, "no answer")
        body: Object = options.get("body", {})
        lease = self.lease
        if verb == "create":
            self.lease = {"metadata": {"resourceVersion": "1"}, "spec": body["spec"]}
        elif lease is None:
            raise NotFoundError(path, 404, "none")
        elif verb == "patch":
            if body["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]:
                raise ConflictError(path, 409, "it has changed")
            version = str(int(lease["metadata"]["resourceVersion"]) + 1)
            self.lease = {"metadata": {"resourceVersion": version}, "spec": lease["spec"] | body["spec"]}
        assert self.lease is not None
        return self.lease

    @property
    def holder(self) -> str:
        assert self.lease is not None
        holder: str = self.lease["spec"]["holderIdentity"]
        return holder


def now() -> float:
    return asyncio.get_running_loop().time()


def test_one_of_two_leads_and_the_other_takes_over_when_the_lease_has_run_out() -> None:
    async def story() -> None:
        server = LeaseServer()
        first, second = Leadership(server, TERMS, "first"), Leadership(server, TERMS, "second")
        await first.win()
        keeping = asyncio.create_task(first.keep())
        winning = asyncio.create_task(second.win())
        await asyncio.sleep(300)
        assert (first.is_held(), second.is_held(), server.holder) == (True, False, "first")
        keeping.cancel()  # as SIGKILL does: nothing is released
        killed_at = now()
        await winning
        assert 10 < now() - killed_at < TERMS.lease_seconds + TERMS.retry_seconds + 0.5
        assert not first.is_held()
        assert server.lease is not None
        assert (server.holder, server.lease["spec"]["leaseTransitions"]) == ("second", 1)

    run(story())


def test_a_lease_that_was_released_is_taken_at_the_next_look() -> None:
    async def story() -> None:
        server = LeaseServer()
        first, second = Leadership(server, TERMS, "first"), Leadership(server, TERMS, "second")
        await first.win()
        winning = asyncio.create_task(second.win())
        await asyncio.sleep(1)
        await first.release()
        released_at = now()
        assert not first.is_held()
        await winning
        assert now() - released_at < TERMS.retry_seconds + 0.5

    run(story())


def test_a_leader_that_cannot_renew_stops_before_anybody_may_take_over() -> None:
    async def story() -> None:
        server = LeaseServer()
        first = Leadership(server, TERMS, "first")
        await first.win()
        won_at = now()
        server.is_away = True
        await first.keep()
        assert TERMS.renew_seconds - 0.5 < now() - won_at < TERMS.lease_seconds
        assert not first.is_held()

    run(story())


def test_an_answer_that_does_not_come_is_not_waited_for_beyond_the_lease() -> None:
    async def story() -> None:
        server = LeaseServer()
        first = Leadership(server, TERMS, "first")
        await first.win()
        won_at = now()
        server.answer_seconds = 1000
        await first.keep()
        assert now() - won_at < TERMS.lease_seconds

    run(story())


def test_an_answer_that_comes_late_counts_from_the_question() -> None:
    async def story() -> None:
        server = LeaseServer()
        server.answer_seconds = 4
        first = Leadership(server, TERMS, "first")
        await first.win()  # a look and a write: 8 of its 10 seconds are over
        assert first.is_held()
        await asyncio.sleep(2.1)
        assert not first.is_held()

    run(story())


def test_a_leader_whose_lease_another_holds_stops_at_its_next_look() -> None:
    async def story() -> None:
        server = LeaseServer()
        first = Leadership(server, TERMS, "first")
        await first.win()
        assert server.lease is not None
        server.lease = server.lease | {"spec": server.lease["spec"] | {"holderIdentity": "second"}}
        taken_at = now()
        await first.keep()
        assert now() - taken_at < TERMS.retry_seconds + 0.5
        await first.release()
        assert server.holder == "second", "what is another's is not released"

    run(story())


def test_a_candidate_waits_for_an_api_server_that_is_away() -> None:
    async def story() -> None:
        server = LeaseServer()
        server.is_away = True
        winning = asyncio.create_task(Leadership(server, TERMS, "first").win())
        await asyncio.sleep(600)
        assert not winning.done()
        server.is_away = False
        await winning
        assert server.holder == "first"

    run(story())


def test_of_two_that_write_at_once_one_leads() -> None:
    async def story() -> None:
        server = LeaseServer()
        await Leadership(server, TERMS, "gone").win()
        server.answer_seconds = 0.1
        candidates = [Leadership(server, TERMS, name) for name in ("first", "second")]
        winning = [asyncio.create_task(each.win()) for each in candidates]
        await asyncio.sleep(30)
        assert [each.is_held() for each in candidates].count(True) <= 1
        assert [task.done() for task in winning].count(True) == 1
        for task in winning:
            task.cancel()

    run(story())


def test_a_client_that_may_not_act_sends_nothing() -> None:
    async def story() -> None:
        api = Api(ApiClient(configuration=Configuration()), may_act=lambda: False)
        with pytest.raises(ApiError, match="does not lead"):
            await api.get(Kind("", "v1", "pods", "Pod"), "team", "pod")

    run(story())


@pytest.mark.parametrize("terms", [{"lease_seconds": 10}, {"renew_seconds": 2}, {"retry_seconds": 10}])
def test_terms_by_which_two_could_lead_are_refused(terms: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="retrySeconds < renewSeconds < leaseSeconds"):
        LeaderElection(namespace="system", name="kit", **terms)
