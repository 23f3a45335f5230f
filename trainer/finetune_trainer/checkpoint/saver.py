"""Saves checkpoints beside the training: at most one is under way, and all ranks agree on how it ended.

All methods are called by all ranks at the same time. Between them a thread of every rank writes its share; these
threads meet in a group of their own, rank 0 marks the checkpoint complete and gives it its name.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_contract import CheckpointReport
from finetune_contract.paths import CHECKPOINTS, checkpoint_name
from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.layout import COMPLETE_FILE, STATE_FILE, FileEntry, Manifest, growing
from finetune_trainer.checkpoint.retention import Retention, prune
from finetune_trainer.checkpoint.state import TrainerState
from finetune_trainer.checkpoint.volume import volume_errors, with_room
from finetune_trainer.checkpoint.writing import BUFFER_BYTES, FILE_BYTES, Share, deal_out, entry_of
from finetune_trainer.distributed import World, answers_given, attempted, beside, from_all, maxima, on_main
from finetune_trainer.failures import AgreedError, failure_of
from finetune_trainer.stopping import NEVER, Deadline, Task, wait_for_all
from finetune_trainer.strategies import Trained

log = logging.getLogger("finetune")


@dataclass(slots=True)
class _UnderWay:
    share: Share
    task: Task[str]
    blocking_seconds: float
    """How long training has waited for it."""

    def has_ended(self, seconds: float) -> bool:
        """Whether it has, or does within so many seconds; what was abandoned never does."""
        return self.task.has_ended(seconds) and not self.share.is_abandoned


class Saver:
    """The one way to a new checkpoint."""

    def __init__(
        self,
        run_folder: Path,
        world: World,
        *,
        checkpoint_bytes: int,
        asynchronous: bool,
        disk: Disk | None = None,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self.folder = run_folder / CHECKPOINTS
        self.disk = disk or Disk()
        self._world, self._file_bytes = world, file_bytes
        self.checkpoint_bytes = checkpoint_bytes
        self.buffer_bytes = None if asynchronous else BUFFER_BYTES
        self._under_way: _UnderWay | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way; the same on every rank."""
        return self._under_way is not None

    def begin(
        self, state: TrainerState, trained: Iterator[Trained], retention: Retention, *, deadline: Deadline = NEVER
    ) -> None:
        """Take a snapshot of the trained parameters and begin to write it; what is snapshotted may change afterwards.

        Raises: AgreedError on every rank when the volume cannot be written to.
        """
        assert self._under_way is None, "one save at a time"
        began = time.monotonic()
        target = self.folder / checkpoint_name(state.step)
        on_main(self._world, lambda: self._cleared(target))
        share = Share(
            growing(target),
            self._world.rank,
            self.disk,
            file_bytes=self._file_bytes,
            buffer_bytes=self.buffer_bytes,
        )
        task = Task("saving", lambda: self._finished(share, target, state, retention, began))
        task.start()
        try:
            deal_out(trained, share, rank=self._world.rank, world_size=self._world.size, deadline=deadline)
        except BaseException:
            share.abandon()
            raise
        share.close()
        self._under_way = _UnderWay(share, task, time.monotonic() - began)

    def ended(self) -> CheckpointReport | None:
        """The save that was under way, if it has ended on every rank; asked after every step, without waiting.

        Raises: AgreedError on every rank when it has failed; no checkpoint is worse for it.
        """
        if self._under_way is None or maxima(self._world, [float(not self._under_way.has_ended(0))])[0]:
            return None
        return self._taken(self._under_way)

    def wait(self, leave: Callable[[], bool]) -> CheckpointReport | None:
        """The same, but waits for it; None when nothing is under way, or once `leave()` is true on any rank."""
        if self._under_way is None:
            return None
        began = time.monotonic()
        if not wait_for_all(self._world, self._under_way.has_ended, leave):
            return None
        self._under_way.blocking_seconds += time.monotonic() - began
        return self._taken(self._under_way)

    def _taken(self, save: _UnderWay) -> CheckpointReport:
        self._under_way = None
        report = CheckpointReport.model_validate_json(save.task.result())
        (blocking_seconds,) = maxima(self._world, [save.blocking_seconds])
        return report.model_copy(update={"blocking_seconds": round(blocking_seconds, 3)})

    def _cleared(self, target: Path) -> str:
        try:
            with volume_errors(self.folder):
                if growing(target).exists():
                    self.disk.remove(growing(target))
                self.disk.make_folder(growing(target))
        except Exception as error:
            raise self._given_up(error, target) from error
        return ""

    def _finished(self, share: Share, target: Path, state: TrainerState, retention: Retention, began: float) -> str:
        """What the thread does: write the share, meet the others; rank 0 completes the checkpoint and tells of it."""
        world = beside(self._world)
        own, error = attempted(world, lambda: Manifest(files=share.written()).model_dump_json())
        if error is not None:
            log.error("writing the checkpoint of step=%d failed", state.step, exc_info=error)
        shares = from_all(world, own)

        def completed() -> str:
            size = self._completed(target, state, shares)
            prune(self.folder, retention, self.disk)
            seconds = round(time.monotonic() - began, 3)
            return CheckpointReport(
                step=state.step, path=str(target), bytes=size, seconds=seconds, blocking_seconds=0.0
            ).model_dump_json()

        return on_main(world, completed)

    def _completed(self, target: Path, state: TrainerState, shares: list[str]) -> int:
        """Mark the checkpoint complete and give it its name, or leave nothing of it; returns its size in bytes."""
        try:
            files = {
                name: entry
                for answer in answers_given(shares)
                for name, entry in Manifest.model_validate_json(answer).files.items()
            }
            with volume_errors(self.folder):
                return self._named(target, state, files)
        except Exception as error:
            raise self._given_up(error, target) from error

    def _given_up(self, error: Exception, target: Path) -> AgreedError:
        """Leave nothing of a checkpoint that cannot be written; what to raise."""
        with contextlib.suppress(OSError):
            self.disk.remove(growing(target))
        return AgreedError(with_room(failure_of(error), target, self.checkpoint_bytes))

    def _named(self, target: Path, state: TrainerState, files: dict[str, FileEntry]) -> int:
        hidden = growing(target)
        self.disk.write(hidden / STATE_FILE, state.model_dump_json(indent=1).encode())
        manifest = Manifest(files=files | {STATE_FILE: entry_of(hidden / STATE_FILE)})
        self.disk.write(hidden / COMPLETE_FILE, manifest.model_dump_json(indent=1).encode())
        if target.exists():  # incomplete, or of a course that was given up: else there would be nothing to save
            self.disk.remove(target)
        self.disk.rename(hidden, target)
        return manifest.bytes
