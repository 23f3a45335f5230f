"""Whether the ranks of a node still move, seen from their launcher: see `pulse` for what a rank gives of itself.

Each rank's numbers are compared with those of the last look. Time in which the launcher did not run itself (a frozen
container, a laptop that slept) counts for nobody.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_contract import Stage, patience_seconds, phase_words
from finetune_trainer.pulse import Signs

LOOK_SECONDS: Final = 0.5
"""Between two looks at the ranks."""
_LONGEST_LOOK_SECONDS: Final = 10 * LOOK_SECONDS
"""More than this between two looks means that the launcher was not running either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where a rank has come to a stand."""

    rank: int
    stage: Stage
    step: int
    """Steps done."""
    step_seconds: float | None
    still_seconds: float
    patience_seconds: float

    @property
    def is_hung(self) -> bool:
        """Whether it stands for longer than what it does can take."""
        return self.still_seconds > self.patience_seconds

    @property
    def phase(self) -> str:
        """What it is in the middle of."""
        return phase_words(self.stage, self.step, self.step_seconds)


@dataclass(slots=True)
class _Seen:
    signs: Signs
    still_seconds: float = 0.0


class Watch:
    """Looks at the pulses in `folder`, which are called `rank-<r>.pulse`."""

    def __init__(
        self, folder: Path, hang_timeout_seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._hang_timeout_seconds, self._clock = folder, hang_timeout_seconds, clock
        self._looked_at = clock()
        self._seen: dict[int, _Seen] = {}

    def hung(self) -> tuple[Stand, ...]:
        """All ranks that still run, as soon as one of them is hung; () as long as none is."""
        now = self._clock()
        elapsed = now - self._looked_at
        if elapsed < LOOK_SECONDS:
            return ()
        self._looked_at = now
        for file in self._folder.glob("rank-*.pulse"):
            self._look(file, min(elapsed, _LONGEST_LOOK_SECONDS))
        stands = tuple(self._stands())
        return stands if any(stand.is_hung for stand in stands) else ()

    def _look(self, file: Path, elapsed: float) -> None:
        rank = int(file.stem.removeprefix("rank-"))
        try:
            signs = Signs.of(file)
        except (OSError, struct.error):
            return  # it is just being made
        seen = self._seen.get(rank)
        if seen is None or seen.signs != signs:
            self._seen[rank] = _Seen(signs)
        else:
            seen.still_seconds += elapsed

    def _stands(self) -> list[Stand]:
        return [
            Stand(
                rank=rank,
                stage=seen.signs.stage,
                step=seen.signs.step,
                step_seconds=seen.signs.step_seconds,
                still_seconds=seen.still_seconds,
                patience_seconds=patience_seconds(
                    seen.signs.stage, seen.signs.step_seconds, self._hang_timeout_seconds
                ),
            )
            for rank, seen in sorted(self._seen.items())
            if seen.signs.stage is not None and not (self._folder / f"rank-{rank}.json").exists()
        ]
