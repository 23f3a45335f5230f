"""The folder of one run on this machine: `runs/<name>/`, with its state beside its results.

    resource.json  status.json  events.log  lock
    push/<k>/      push.json started.json output.log outcome.json exit.json
    prepare/       config.json started.json output.log outcome.json exit.json
    attempts/<k>/  run.json started.json progress.port stopping removed
    attempts/<k>/node-<i>/  output.log outcome.json exit.json supervisor.pid
    checkpoints/   adapter/   ...  (the trainer's own)

A file is there whole or not at all. An attempt exists from `started.json` to `removed`; its logs outlive it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_contract.paths import ATTEMPTS
from finetune_operator.backends.local.supervisor import OUTPUT_FILE

OUTCOME_FILE = "outcome.json"
PREPARE = "prepare"
PUSH = "push"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below one run's folder."""

    path: Path

    @property
    def resource_file(self) -> Path:
        """The resource as it was started, with the uid it was given."""
        return self.path / "resource.json"

    @property
    def status_file(self) -> Path:
        """The run's status."""
        return self.path / "status.json"

    @property
    def events_file(self) -> Path:
        """What has happened, a line each."""
        return self.path / "events.log"

    @property
    def lock_file(self) -> Path:
        """Held by the one `qft run` that looks after the run."""
        return self.path / "lock"

    @property
    def prepare(self) -> Path:
        """The preparation's own folder."""
        return self.path / PREPARE

    @property
    def log_of_preparation(self) -> Path:
        """What the preparation said."""
        return self.prepare / OUTPUT_FILE

    def push(self, number: int) -> Path:
        """One push's own folder."""
        return self.path / PUSH / str(number)

    def pushes(self) -> list[int]:
        """Numbers of the pushes that were started, in order."""
        folders = (self.path / PUSH).glob("*")
        return sorted(int(each.name) for each in folders if each.name.isdigit() and (each / "started.json").exists())

    def log_of_push(self, number: int) -> Path:
        """What one push said."""
        return self.push(number) / OUTPUT_FILE

    def attempt(self, number: int) -> "AttemptFolder":
        """One attempt's own folder."""
        return AttemptFolder(self.path / ATTEMPTS / str(number))

    def attempts(self) -> Iterator[tuple[int, "AttemptFolder"]]:
        """Every attempt that exists, oldest first."""
        folders = (self.path / ATTEMPTS).glob("*")
        for number in sorted(int(folder.name) for folder in folders if folder.name.isdigit()):
            folder = self.attempt(number)
            if folder.started_file.exists() and not folder.removed_file.exists():
                yield number, folder


@dataclass(frozen=True, slots=True)
class AttemptFolder:
    """Paths below one attempt's folder."""

    path: Path

    @property
    def config_file(self) -> Path:
        """What the trainer is told."""
        return self.path / "run.json"

    @property
    def started_file(self) -> Path:
        """Written when every worker has been started."""
        return self.path / "started.json"

    @property
    def progress_port_file(self) -> Path:
        """Written by rank 0."""
        return self.path / "progress.port"

    @property
    def stopping_file(self) -> Path:
        """Written when the workers were told to stop."""
        return self.path / "stopping"

    @property
    def removed_file(self) -> Path:
        """Written when every worker is gone and nobody looks at the attempt any more."""
        return self.path / "removed"

    def node(self, index: int) -> Path:
        """One worker's own folder."""
        return self.path / f"node-{index}"

    def log_of(self, index: int) -> Path:
        """What one worker said."""
        return self.node(index) / OUTPUT_FILE


def write_json(file: Path, content: Any) -> None:
    """`content` stands in `file`, whole."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False))


def write_text(file: Path, content: str) -> None:
    """`content` stands in `file`, whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    growing = file.with_name(f"{file.name}.growing")
    growing.write_text(content, encoding="utf-8")
    growing.replace(file)


def read_json(file: Path) -> Any:
    """What stands in `file`; None when there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
