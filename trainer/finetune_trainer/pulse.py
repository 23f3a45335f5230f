"""A rank's sign of life: four numbers in a mapped file, which the rank changes whenever it gets on.

Its launcher looks at them from outside (`watch`), so that a rank which cannot say anything is found as well. A sign
costs a microsecond and no system call; whoever reads, computes or writes a piece of a larger whole gives one. A process
that is no rank of a launcher has a pulse that nobody feels.
"""

import math
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_contract import Stage

_RECORD: Final = struct.Struct("<qqqd")
_STAGES: Final = tuple(Stage)
_MEETING: Final = -1
"""In the place of a stage: the rank waits for the others to come, which has a limit of its own."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What a pulse says: whatever changes in it, the rank has moved."""

    count: int
    stage: Stage | None
    """None: the ranks are meeting."""
    step: int
    """Steps done."""
    step_seconds: float | None
    """Median of this attempt's steps; None before the first."""

    @classmethod
    def of(cls, file: Path) -> "Signs":
        """The newest in `file`. Raises OSError and struct.error while there are none."""
        count, stage, step, seconds = _RECORD.unpack(file.read_bytes())
        return cls(count, None if stage == _MEETING else _STAGES[stage], step, None if math.isnan(seconds) else seconds)


class Pulse:
    """This process's end; threads may give signs at the same time, and one of them counts."""

    def __init__(self) -> None:
        self.count = 0
        self._moved_at = time.monotonic()
        self._said: tuple[int, int, float] = (_MEETING, 0, math.nan)
        self._map: mmap.mmap | bytearray = bytearray(_RECORD.size)

    def show(self, file: Path) -> None:
        """From now on whoever reads `file` sees it."""
        with open(file, "x+b") as mapped:
            os.truncate(mapped.fileno(), _RECORD.size)
            self._map = mmap.mmap(mapped.fileno(), _RECORD.size)
        self.beat()

    def beat(self) -> None:
        """Something was done."""
        self.count += 1
        self._moved_at = time.monotonic()
        _RECORD.pack_into(self._map, 0, self.count, *self._said)

    def say(self, stage: Stage, step: int, step_seconds: float | None) -> None:
        """The same, and what comes next."""
        self._said = (_STAGES.index(stage), step, math.nan if step_seconds is None else step_seconds)
        self.beat()

    @property
    def still_seconds(self) -> float:
        """Since the last sign."""
        return time.monotonic() - self._moved_at


own: Final = Pulse()
"""Of this process, which is one rank."""
