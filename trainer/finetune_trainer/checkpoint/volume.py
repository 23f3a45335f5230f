"""Whether a volume can take checkpoints: asked before any training, and named as the cause when it could not."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from finetune_contract import ExitCode, Failure
from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.layout import complete_checkpoints
from finetune_trainer.distributed import World, on_all, on_main
from finetune_trainer.failures import UserError, failure_of

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
_BROKEN: Final = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EREMOTEIO)


class VolumeError(RuntimeError):
    """The output volume could not be written to."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@contextmanager
def volume_errors(folder: Path) -> Iterator[None]:
    """Whatever the volume answers within is raised as a VolumeError that says what to do about it."""
    try:
        yield
    except OSError as error:
        raise VolumeError(_failure_of_volume(error, folder)) from error


def _failure_of_volume(error: OSError, folder: Path) -> Failure:
    if error.errno in _FULL:
        message = (
            f"storage.output: no room on {folder}, where {_free_bytes(folder):,} bytes are free: {error}; give "
            "storage.output more room"
        )
        return Failure(exit_code=ExitCode.USER_ERROR, reason="DiskFull", message=message)
    if error.errno in _READ_ONLY:
        message = (
            f"storage.output: {folder} cannot be written to: {error}; mount the volume read-write, for the user that "
            "the trainer runs as"
        )
        return Failure(exit_code=ExitCode.USER_ERROR, reason="OutputNotWritable", message=message)
    if error.errno in _BROKEN:
        message = f"storage.output: the volume of {folder} does not answer: {error}"
        return Failure(exit_code=ExitCode.INFRASTRUCTURE, reason="OutputVolumeFailed", message=message)
    return failure_of(error)


def check_shared(run_folder: Path, world: World, disk: Disk) -> None:
    """Every rank can write to `run_folder`, and sees there what the others write. Called by all ranks.

    Raises: AgreedError `OutputNotWritable`, `OutputNotShared` or `DiskFull` on every rank.
    """
    probe = run_folder / ".probe"
    first, own = probe / "rank-0", probe / f"rank-{world.rank}"

    def open_meeting() -> str:
        with volume_errors(run_folder):
            if probe.exists():
                disk.remove(probe)  # of an attempt that was killed here
            disk.make_folder(probe)
            disk.write(first, b"")
        return ""

    def meet() -> str:
        if not first.is_file():
            raise UserError(
                "OutputNotShared",
                f"storage.output: rank {world.rank} does not see what rank 0 wrote to {run_folder}; all nodes must "
                "mount one and the same volume (ReadWriteMany)",
            )
        with volume_errors(run_folder):
            disk.write(own, b"")
        return ""

    def close_meeting() -> str:
        with volume_errors(run_folder):
            disk.remove(probe)
        return ""

    on_main(world, open_meeting)
    on_all(world, meet)
    on_main(world, close_meeting)


def check_room(folder: Path, *, checkpoint_bytes: int, most: int, saves_left: int) -> str:
    """What checkpoints will take of the volume that `folder` lies on, in words for the log.

    `most`: how many there are at a time when old ones go as new ones come; `saves_left`: in the rest of the run.
    Raises: UserError `DiskFull` when the free space cannot suffice.
    """
    there = len(complete_checkpoints(folder))
    more = min(saves_left, max(1, most - there))
    need, free = more * checkpoint_bytes, _free_bytes(folder)
    if need > free:
        raise UserError(
            "DiskFull",
            f"storage.output: {need:,} bytes are needed for {more} checkpoints of {checkpoint_bytes:,} bytes besides "
            f"the {there} that are there, and {free:,} bytes are free on {folder}; give storage.output more room, or "
            "lower checkpoint.keep (one more than that is there while a new one is written)",
        )
    return f"up to {more} more of {checkpoint_bytes:,} bytes, {free:,} bytes free"


def with_room(failure: Failure, target: Path, checkpoint_bytes: int) -> Failure:
    """`failure` to write the checkpoint `target`; if room was the matter, with need, free space, and what is kept."""
    if failure.reason != "DiskFull":
        return failure
    folder = target.parent
    kept = complete_checkpoints(folder)
    message = (
        f"storage.output: {target.name} needs {checkpoint_bytes:,} bytes, and {_free_bytes(folder):,} bytes are "
        f"free on {folder}; {kept[0].name if kept else 'no checkpoint'} is kept. Give storage.output more "
        "room, or lower checkpoint.keep"
    )
    return failure.model_copy(update={"message": message})


def _free_bytes(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
