"""Which checkpoints stay."""

import shutil
from pathlib import Path

from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.reading import complete_checkpoints


def prune(folder: Path, keep: int, disk: Disk) -> None:
    """Only ever called when a newer checkpoint has become complete; takes leftovers of crashes along."""
    for path in complete_checkpoints(folder)[keep:]:
        disk.remove(path)
    for path in folder.iterdir():
        if path.name.startswith((".growing-", ".removed-", ".damaged-")):
            shutil.rmtree(path, ignore_errors=True)
