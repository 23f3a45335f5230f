"""One tracker in a thread of its own, behind a bounded queue: whatever it does or does not do, training goes on.

The training thread only ever appends to the queue, which takes no longer when the tracker hangs. When the queue is
full its oldest points go, and are counted.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from finetune_contract import TrackerReport, TrackerState
from finetune_trainer.trackers.connection import Connection

QUEUE_LIMIT = 1000
"""Points that wait for a tracker at most."""
PATIENCE_SECONDS = 60.0
"""A tracker that is silent for longer is called Stalled."""
MAX_FAILURES = 5
"""Points in a row that could not be sent, after which a tracker is left alone."""

THREAD_PREFIX = "tracker-"

Values = dict[str, float]


class TrackerThread:
    """Opens a tracker, feeds it, and closes it."""

    def __init__(
        self,
        name: str,
        open_: Callable[[], Connection],
        *,
        limit: int = QUEUE_LIMIT,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`open_` may take its time, and may raise anything."""
        self._open = open_
        self._limit, self._patience_seconds, self._clock = limit, patience_seconds, clock
        self._waiting: deque[tuple[int, Values]] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._dropped = 0
        self._failures = 0
        self._connection: Connection | None = None
        self._error: str | None = None
        self._busy_since: float | None = clock()
        self._thread = threading.Thread(target=self._run, name=f"{THREAD_PREFIX}{name}", daemon=True)
        self._thread.start()

    def put(self, step: int, values: Values) -> None:
        """Queue a point; never waits for the tracker."""
        with self._changed:
            if self._error is not None:
                self._dropped += 1
                return
            if len(self._waiting) == self._limit:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((step, values))
            self._changed.notify()

    def report(self) -> TrackerReport:
        """How it does at the moment."""
        with self._changed:
            url = None if self._connection is None else self._connection.url
            if self._error is not None:
                return TrackerReport(state=TrackerState.DOWN, dropped=self._dropped, message=self._error, url=url)
            if self._busy_since is not None and self._clock() - self._busy_since > self._patience_seconds:
                doing = "connect" if self._connection is None else "send"
                message = f"no answer for more than {self._patience_seconds:g} s; still trying to {doing}"
                return TrackerReport(state=TrackerState.STALLED, dropped=self._dropped, message=message, url=url)
            state = TrackerState.CONNECTING if self._connection is None else TrackerState.LIVE
            return TrackerReport(state=state, dropped=self._dropped, url=url)

    def close(self) -> None:
        """No more points follow; what waits is still sent. Does not wait: see `ended`."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()

    def ended(self, seconds: float) -> bool:
        """Whether everything is sent and closed within so many seconds."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            connection = self._open()
        except BaseException as error:  # a library may raise SystemExit, and there is nobody above to tell
            self._fail(error)
            return
        with self._changed:
            self._connection, self._busy_since = connection, None
        while (point := self._next()) is not None:
            if not self._sent(connection, *point):
                return
        self._finish(connection)

    def _next(self) -> tuple[int, Values] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            self._busy_since = self._clock()
            return self._waiting.popleft() if self._waiting else None

    def _sent(self, connection: Connection, step: int, values: Values) -> bool:
        """Send a point; False once the tracker is given up."""
        try:
            connection.tracker.log(values, step=step)
            self._failures = 0
        except BaseException as error:
            self._failures += 1
            with self._changed:
                self._dropped += 1
            if self._failures >= MAX_FAILURES:
                self._fail(error)
                return False
        with self._changed:
            self._busy_since = None
        return True

    def _finish(self, connection: Connection) -> None:
        try:
            connection.tracker.finish()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = f"{type(error).__name__}: {error}"[:300]
            self._dropped += len(self._waiting)
            self._waiting.clear()
