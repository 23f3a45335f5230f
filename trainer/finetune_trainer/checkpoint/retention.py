"""Which checkpoints stay."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.layout import complete_checkpoints, step_of, sweep

log = logging.getLogger("finetune")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What stays of the complete checkpoints."""

    keep: int
    """The newest so many, at least one."""
    best_step: int | None = None
    """And the one of this step, if there is one: that with the lowest validation loss."""
    good_step: int | None = None
    """And the newest one of a step up to this, which a rollback would go back to, and the oldest one after it, which a
    later rollback would."""


def superseded(steps: Iterable[int], retention: Retention) -> list[int]:
    """Which of these steps' checkpoints go, oldest first."""
    newest_first = sorted(steps, reverse=True)
    kept = {*newest_first[: retention.keep], retention.best_step}
    if retention.good_step is not None:
        kept.update([step for step in newest_first if step <= retention.good_step][:1])
        kept.update([step for step in newest_first if step > retention.good_step][-1:])
    return [step for step in reversed(newest_first) if step not in kept]


def prune(folder: Path, retention: Retention, disk: Disk) -> None:
    """Only ever called when a newer checkpoint has become complete; takes leftovers of crashes along.

    What cannot be removed stays for the next time: the new checkpoint is none the worse for it.
    """
    paths = {step_of(path): path for path in complete_checkpoints(folder)}
    try:
        for step in superseded(paths, retention):
            disk.remove(paths[step])
    except OSError as error:
        log.warning("an old checkpoint cannot be removed: %s", error)
    sweep(folder, with_aside=True)
