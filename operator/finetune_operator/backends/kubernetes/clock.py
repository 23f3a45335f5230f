"""What time it is by the API server, whatever the clock of this machine says.

The times that decisions rest on stand in resources: Kubernetes wrote some, an operator on another machine others. Read
against this machine's clock, one that is wrong or jumps would end runs for a deadline, or delete them for their age.
So the API server's clock is everybody's: each of its answers carries the time, and in between the monotonic clock goes
on.
"""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime


class ServerClock:
    """Call it for unix seconds; until the server has spoken, they are this machine's."""

    def __init__(self, ticks: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._ticks = ticks
        self._ahead = wall() - ticks()

    def __call__(self) -> float:
        return self._ticks() + self._ahead

    def ticks(self) -> float:
        """Seconds that never jump; `heard` wants those of the question."""
        return self._ticks()

    def heard(self, date: str | None, asked_at: float) -> None:
        """An answer to what was asked at `asked_at` ticks carried this Date header.

        The server read its clock after the question and before now, and wrote whole seconds: what fits is left alone,
        so that the time does not jitter with every answer.
        """
        if date is None:
            return
        try:
            said = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        self._ahead = min(max(self._ahead, said - self._ticks()), said + 1 - asked_at)
