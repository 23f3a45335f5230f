"""When passes run. Time is asyncio's own, made fast by a loop that jumps to the next timer."""

import asyncio

from finetune_operator import runner
from finetune_operator.runner import Runner
from support.jumping_loop import run


class Passes:
    """Counts passes, and how many of one run were at once."""

    def __init__(self, seconds: float = 0.0, look: float | None = None) -> None:
        self.count: dict[str, int] = {}
        self.at_once: dict[str, int] = {}
        self.most_at_once = 0
        self.errors: list[Exception] = []
        self._seconds, self._look = seconds, look

    async def __call__(self, key: str) -> float | None:
        self.count[key] = self.count.get(key, 0) + 1
        self.at_once[key] = self.at_once.get(key, 0) + 1
        self.most_at_once = max(self.most_at_once, self.at_once[key])
        await asyncio.sleep(self._seconds)
        self.at_once[key] -= 1
        if self.errors:
            raise self.errors.pop(0)
        return self._look


def test_a_burst_of_wakes_is_one_pass() -> None:
    async def story() -> None:
        passes = Passes()
        woken = Runner(passes)
        for _ in range(50):
            woken.wake("a")
        await asyncio.sleep(1)
        assert passes.count == {"a": 1}

    run(story())


def test_whatever_happens_during_a_pass_leads_to_exactly_one_more() -> None:
    async def story() -> None:
        passes = Passes(seconds=5)
        woken = Runner(passes)
        woken.wake("a")
        await asyncio.sleep(1)
        for _ in range(50):
            woken.wake("a")
        await asyncio.sleep(60)
        assert (passes.count, passes.most_at_once) == ({"a": 2}, 1)

    run(story())


def test_the_next_look_comes_when_it_was_asked_for() -> None:
    async def story() -> None:
        passes = Passes(look=10)
        woken = Runner(passes)
        woken.wake("a")
        await asyncio.sleep(35)
        assert passes.count == {"a": 4}
        await woken.close()

    run(story())


def test_a_failed_pass_is_tried_again_later_and_later_and_stops_no_other() -> None:
    async def story() -> None:
        passes = Passes()
        passes.errors = [RuntimeError("no answer")] * 3
        woken = Runner(passes)
        woken.wake("a")
        await asyncio.sleep(30)
        woken.wake("b")
        await asyncio.sleep(1)
        assert passes.count == {"a": 4, "b": 1}

    run(story())


def test_retries_have_a_longest_wait() -> None:
    assert max(runner.retry_seconds(failures) for failures in range(1, 2000)) <= runner.LONGEST_RETRY_SECONDS


def test_a_pass_that_does_not_end_is_noticed_and_stops_no_other_run() -> None:
    async def story() -> None:
        passes = Passes(seconds=1000)
        woken = Runner(passes)
        woken.wake("a")
        woken.wake("b")
        await asyncio.sleep(100)
        assert passes.count == {"a": 1, "b": 1}
        assert woken.longest_pass_seconds() > 99
        await woken.close()

    run(story())


def test_nothing_runs_after_the_end() -> None:
    async def story() -> None:
        passes = Passes(look=1)
        woken = Runner(passes)
        woken.wake("a")
        await asyncio.sleep(0.5)
        await woken.close()
        woken.wake("b")
        await asyncio.sleep(10)
        assert passes.count == {"a": 1}

    run(story())
