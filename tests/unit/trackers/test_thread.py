"""Whatever a tracker does, the training thread goes on at once, and the report says what became of the tracker."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from finetune_contract import TrackerState
from finetune_trainer.trackers import Tracking, any_left_behind
from finetune_trainer.trackers.connection import Connection
from finetune_trainer.trackers.thread import MAX_FAILURES, TrackerThread

SOON = 10.0


class Tracker:
    """Notes what it is sent; hangs until it is let go, or raises what it is told to."""

    def __init__(self) -> None:
        self.points: list[tuple[int | None, dict[str, float]]] = []
        self.error: BaseException | None = None
        self.is_finished = False
        self.arrived = threading.Event()
        self.may_go = threading.Event()
        self.may_go.set()

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.arrived.set()
        self.may_go.wait(SOON)
        if self.error is not None:
            raise self.error
        self.points.append((step, values))

    def finish(self) -> None:
        self.is_finished = True


class Clock:
    """Moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(thread: TrackerThread) -> None:
    thread.close()
    assert thread.ended(SOON)


def until(holds: Callable[[], bool]) -> None:
    """Give the other thread its turn."""
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def test_points_arrive_in_order_and_the_tracker_is_finished() -> None:
    tracker = Tracker()
    thread = TrackerThread("it", lambda: Connection(tracker, "https://here"))
    for step in (1, 2, 3):
        thread.put(step, {"loss": step / 2})
    ended(thread)
    assert tracker.points == [(1, {"loss": 0.5}), (2, {"loss": 1.0}), (3, {"loss": 1.5})]
    assert tracker.is_finished
    report = thread.report()
    assert (report.state, report.dropped, report.url) == (TrackerState.LIVE, 0, "https://here")


def test_a_tracker_that_hangs_holds_nobody_up_and_the_oldest_points_go() -> None:
    tracker, clock = Tracker(), Clock()
    tracker.may_go.clear()
    thread = TrackerThread("it", lambda: Connection(tracker), limit=3, patience_seconds=60, clock=clock)
    thread.put(0, {})
    assert tracker.arrived.wait(SOON)
    for step in range(1, 8):
        thread.put(step, {})
    assert thread.report().state is TrackerState.LIVE
    clock.now = 61.0
    report = thread.report()
    assert (report.state, report.dropped) == (TrackerState.STALLED, 4)
    assert "send" in str(report.message)
    assert any_left_behind()
    assert not thread.ended(0.0)
    tracker.may_go.set()
    ended(thread)
    assert [step for step, _ in tracker.points] == [0, 5, 6, 7]
    assert not any_left_behind()


def test_a_tracker_that_never_opens_is_stalled_and_later_live() -> None:
    clock, may_open = Clock(), threading.Event()
    tracker = Tracker()

    def slow() -> Connection:
        may_open.wait(SOON)
        return Connection(tracker)

    thread = TrackerThread("it", slow, patience_seconds=60, clock=clock)
    thread.put(1, {})
    assert thread.report().state is TrackerState.CONNECTING
    clock.now = 61.0
    assert thread.report().state is TrackerState.STALLED
    may_open.set()
    ended(thread)
    assert thread.report().state is TrackerState.LIVE
    assert tracker.points == [(1, {})]


@pytest.mark.parametrize("error", [RuntimeError("no such project"), SystemExit(1), KeyboardInterrupt()])
def test_a_tracker_that_cannot_be_opened_is_down(error: BaseException) -> None:
    def broken() -> Connection:
        raise error

    thread = TrackerThread("it", broken)
    assert thread.ended(SOON)
    thread.put(1, {})
    report = thread.report()
    assert (report.state, report.dropped) == (TrackerState.DOWN, 1)
    assert type(error).__name__ in str(report.message)


def test_a_failure_now_and_then_is_counted_and_many_in_a_row_end_it() -> None:
    tracker = Tracker()
    thread = TrackerThread("it", lambda: Connection(tracker))
    tracker.error = ConnectionError("reset")
    for step in range(MAX_FAILURES - 1):
        thread.put(step, {})
    until(lambda: thread.report().dropped == MAX_FAILURES - 1)
    tracker.error = None
    thread.put(99, {})
    until(lambda: len(tracker.points) == 1)
    assert thread.report().state is TrackerState.LIVE
    tracker.error = ConnectionError("reset")
    for step in range(MAX_FAILURES + 2):
        thread.put(step, {})
    assert thread.ended(SOON)
    report = thread.report()
    assert (report.state, report.message) == (TrackerState.DOWN, "ConnectionError: reset")
    assert report.dropped == 2 * MAX_FAILURES + 1


def test_a_tracker_that_fails_to_finish_is_told_of() -> None:
    class Unfinished(Tracker):
        def finish(self) -> None:
            raise OSError("disk full")

    thread = TrackerThread("it", lambda: Connection(Unfinished()))
    ended(thread)
    assert thread.report().state is TrackerState.DOWN


def tracking(tracker: Any, *, resends: bool, sent_step: int) -> Tracking:
    return Tracking(
        {"it": (lambda first_step: Connection(tracker, str(first_step)), resends)}, first_step=4, sent_step=sent_step
    )


def test_steps_never_go_back_in_a_tracker_that_only_grows() -> None:
    grows, purges = Tracker(), Tracker()
    for tracker, resends in ((grows, False), (purges, True)):
        made = tracking(tracker, resends=resends, sent_step=6)
        for step in (4, 5, 6, 7):
            made.log(step, {"loss": 1.0, "grad_norm": None})
        made.close(SOON)
        assert made.reports()["it"].url == "4"
    assert [step for step, _ in grows.points] == [7]
    assert purges.points == [(step, {"loss": 1.0}) for step in (4, 5, 6, 7)]


def opened(tracker: Tracker, first_step: int) -> Connection:
    return Connection(tracker)


def test_the_end_of_a_run_waits_for_all_trackers_together_once() -> None:
    trackers = [Tracker(), Tracker(), Tracker()]
    for each in trackers:
        each.may_go.clear()
    openers = {str(index): (partial(opened, each), False) for index, each in enumerate(trackers)}
    made = Tracking(openers, first_step=1, sent_step=0)
    made.log(1, {"loss": 1.0})
    began = time.monotonic()
    made.close(0.3)
    assert time.monotonic() - began < 0.6
    assert any_left_behind()
    for each in trackers:
        each.may_go.set()
    made.close(SOON)
    assert not any_left_behind()


def test_a_message_never_quotes_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-key")

    def broken(_: int) -> Connection:
        raise PermissionError("the key s3cret-key is not known")

    made = Tracking({"wandb": (broken, False)}, first_step=1, sent_step=0)
    made.close(SOON)
    assert made.reports()["wandb"].message == "PermissionError: the key *** is not known"
