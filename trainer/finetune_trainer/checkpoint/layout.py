"""What lies in a folder of checkpoints: names, lists of files, what is complete and what is litter."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from finetune_contract import ContractModel
from finetune_trainer.checkpoint.disk import Disk

STATE_FILE: Final = "trainer_state.json"
COMPLETE_FILE: Final = "COMPLETE"
_GROWING, _ASIDE = ".growing-", ".aside-"
_LITTER = (_GROWING, ".removed-", ".probe-")


class FileEntry(ContractModel):
    """What a file of a checkpoint must be."""

    bytes: int
    sha256: str


class Manifest(ContractModel):
    """The content of COMPLETE: every other file of the checkpoint."""

    files: dict[str, FileEntry]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(entry.bytes for entry in self.files.values())


def manifest_of(checkpoint: Path) -> Manifest:
    """What a complete checkpoint says of its files.

    Raises: OSError, ValueError.
    """
    return Manifest.model_validate_json((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))


def complete_checkpoints(folder: Path, *, not_after: int | None = None) -> list[Path]:
    """The checkpoints that were finished, newest first; those of steps up to `not_after`, if it is given."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name)]
    wanted = (path for path in named if not_after is None or step_of(path) <= not_after)
    return sorted((path for path in wanted if (path / COMPLETE_FILE).is_file()), reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was taken, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def growing(target: Path) -> Path:
    """The hidden folder beside `target` in which it is written."""
    return target.with_name(f"{_GROWING}{target.name}")


def set_aside(checkpoint: Path, disk: Disk) -> None:
    """Take a checkpoint out of the way, so that it is neither chosen nor counted."""
    aside = checkpoint.with_name(f"{_ASIDE}{checkpoint.name}")
    if aside.exists():
        disk.remove(aside)
    disk.rename(checkpoint, aside)


def sweep(folder: Path, *, with_aside: bool) -> None:
    """Remove what crashes have left, as far as that can be done; called when nobody else writes here."""
    for path in _beginning_with(folder, (*_LITTER, _ASIDE) if with_aside else _LITTER):
        shutil.rmtree(path, ignore_errors=True)


def _beginning_with(folder: Path, prefixes: tuple[str, ...]) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.name.startswith(prefixes)) if folder.is_dir() else iter(())
