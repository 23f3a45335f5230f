"""How an artifact comes to stand on the output volume: grown beside its place, and named when it is whole."""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_contract import Artifact, ArtifactKind
from finetune_trainer.artifacts import artifact_digest, files_of
from finetune_trainer.checkpoint import Disk
from finetune_trainer.failures import UserError
from finetune_trainer.usage import Place, serving

log = logging.getLogger("finetune")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def appearing(target: Path, disk: Disk, *, needed_bytes: int, checkpoint: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` once everything in it is on the disk.

    Raises: UserError that says what the volume lacks, and that the training is kept in `checkpoint`.
    """
    growing = target.with_name(f".growing-{target.name}")
    try:
        shutil.rmtree(growing, ignore_errors=True)
        disk.make_folder(growing)
        if needed_bytes > (free := shutil.disk_usage(growing).free):
            raise OSError(errno.ENOSPC, f"{needed_bytes:,} bytes are needed, {free:,} are free")
        yield growing
        if target.exists():
            disk.remove(target)
        disk.rename(growing, target)
    except OSError as error:
        if error.errno not in _FULL + _LOCKED:
            raise
        shutil.rmtree(growing, ignore_errors=True)
        raise _refused_by_volume(error, target, needed_bytes, checkpoint) from error


def _refused_by_volume(error: OSError, target: Path, needed_bytes: int, checkpoint: Path) -> UserError:
    kept = (
        f"the training is done and kept in {checkpoint}: a run of the same name on the same volume goes on from there, "
        "and only exports"
    )
    if error.errno in _FULL:
        return UserError(
            "OutputFull",
            f"storage.output: {target.name} of {needed_bytes / 1e9:.2f} GB does not fit the volume at {target.parent} "
            f"({error.strerror}); give it more room; {kept}",
        )
    return UserError(
        "OutputNotWritable",
        f"storage.output: {target.name} cannot be written to {target.parent}: {error}; make the volume writable for "
        f"the trainer's user; {kept}",
    )


def artifact(kind: ArtifactKind, folder: Path, name: str) -> Artifact:
    """What stands in `folder`, by its digest; to be served as `name`."""
    size = sum(path.stat().st_size for path in files_of(folder))
    log.info("artifact=%s kind=%s bytes=%d", folder, kind, size)
    return Artifact(
        kind=kind,
        path=str(folder),
        digest=artifact_digest(folder),
        bytes=size,
        serve=serving(kind, folder, Place(name=str(folder)), name),
    )


def copy_files(source: Path, folder: Path, names: Iterator[str], disk: Disk) -> None:
    """Small files, as they are."""
    for name in names:
        disk.write(folder / name, (source / name).read_bytes())
