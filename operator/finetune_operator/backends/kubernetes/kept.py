"""Answers of the API server that are kept for a while: a thousand passes that want the same one ask once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Slot(Generic[Answer]):
    kept: tuple[float, Answer] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class KeptAnswers(Generic[Question, Answer]):
    """What `ask(question)` answered last, for as long as `fresh_seconds(answer)` says."""

    def __init__(
        self,
        ask: Callable[[Question], Awaitable[Answer]],
        fresh_seconds: Callable[[Answer], float],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._fresh_seconds = fresh_seconds
        self._ticks = ticks
        self._slots: dict[Question, _Slot[Answer]] = {}

    async def get(self, question: Question) -> Answer:
        """The answer. Raises what `ask` raises, and keeps nothing then."""
        slot = self._slots.setdefault(question, _Slot())
        async with slot.lock:
            if slot.kept is None or self._ticks() - slot.kept[0] > self._fresh_seconds(slot.kept[1]):
                slot.kept = (self._ticks(), await self._ask(question))
            return slot.kept[1]
