"""Checkpoints for tests, and disks that fail or kill at a named moment of saving one."""

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from finetune_contract import CheckpointReport
from finetune_trainer.checkpoint import Checkpoint, Disk, Retention, Saver, TrainerState, fingerprint, newest
from finetune_trainer.distributed import World
from finetune_trainer.evaluation import EvaluationState
from finetune_trainer.stability import StabilityState
from finetune_trainer.strategies import Trained

SETTINGS: dict[str, Any] = {"precision": "Fp32", "seed": 1, "tokens": "a"}
SHAPES: dict[str, tuple[int, ...]] = {"a": (3, 2), "b": (3, 2)}
BYTES = 3 * 2 * 3 * 2 * 4


class NeverStop:
    """Nobody asks this process to stop."""

    requested = False
    seconds = 0.0


def state(step: int, settings: dict[str, Any] = SETTINGS) -> TrainerState:
    """What the run is after `step`."""
    return TrainerState(
        step=step, updates=step, loss_scale=1.0, quiet_updates=step, tokens=step * 10, loss=2.0,
        stability=StabilityState(), evaluation=EvaluationState(), settings=settings,
        fingerprint=fingerprint(settings), versions={},
    )  # fmt: skip


def trained(step: int) -> Iterator[Trained]:
    """Parameters whose every number tells the step."""
    for name, shape in SHAPES.items():
        value = torch.full(shape, float(step))
        yield Trained(name=name, weight=value, exp_avg=value + 1, exp_avg_sq=value + 2)


def saver(folder: Path, world: World, disk: Disk | None = None, **options: Any) -> Saver:
    """A saver of such checkpoints."""
    return Saver(folder, world, **({"checkpoint_bytes": BYTES, "asynchronous": True, "disk": disk} | options))


def saved(
    folder: Path, step: int, world: World, *, keep: int = 2, disk: Disk | None = None, **options: Any
) -> CheckpointReport:
    """The report of a checkpoint of `step`, once it is complete."""
    saving = saver(folder, world, disk, **options)
    saving.begin(state(step), trained(step), Retention(keep=keep))
    report = saving.wait(lambda: False)
    assert report is not None
    return report


def found(folder: Path, world: World, **changes: Any) -> Checkpoint | None:
    """What a run goes on from."""
    arguments: dict[str, Any] = {"settings": SETTINGS, "shapes": SHAPES, "stop": NeverStop()} | changes
    return newest(folder, arguments.pop("settings"), arguments.pop("shapes"), world, **arguments)


class Phase(StrEnum):
    """Where in a verb."""

    BEFORE = "before"
    MIDDLE = "middle"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in the course of what is done to a disk."""

    number: int
    """Of the verb, from 0 on."""
    verb: str
    name: str
    """Of the file or folder that the verb is about."""
    parent: str
    """Of the folder that it lies in."""
    phase: Phase


@dataclass(slots=True)
class FaultyDisk(Disk):
    """A disk of which every moment is shown to `act`; what that raises is what the verb comes to.

    In the middle of a verb half of it is done: half of a file, a folder without its name and without one of its files.
    """

    act: Callable[[Moment], None]
    verbs: int = field(default=0, init=False)

    def _moments(self, verb: str, path: Path, half: Callable[[], None], whole: Callable[[], None]) -> None:
        number, self.verbs = self.verbs, self.verbs + 1
        self.act(Moment(number, verb, path.name, path.parent.name, Phase.BEFORE))
        half()
        self.act(Moment(number, verb, path.name, path.parent.name, Phase.MIDDLE))
        whole()
        self.act(Moment(number, verb, path.name, path.parent.name, Phase.AFTER))

    def write(self, path: Path, data: bytes) -> None:
        """As the real one."""
        self._moments("write", path, lambda: half_written(path, data), lambda: Disk.write(self, path, data))

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """As the real one."""
        self._moments(
            "write_tensors", path, lambda: half_written(path, save(dict(tensors), metadata)),
            lambda: Disk.write_tensors(self, path, tensors, metadata),
        )  # fmt: skip

    def make_folder(self, path: Path) -> None:
        """As the real one."""
        self._moments("make_folder", path, lambda: None, lambda: Disk.make_folder(self, path))

    def rename(self, old: Path, new: Path) -> None:
        """As the real one."""
        self._moments("rename", new, lambda: None, lambda: Disk.rename(self, old, new))

    def remove(self, path: Path) -> None:
        """As the real one."""
        hidden = path.with_name(f".removed-{path.name.lstrip('.')}")

        def half() -> None:
            shutil.rmtree(hidden, ignore_errors=True)
            os.rename(path, hidden)
            for file in sorted(hidden.iterdir())[:1]:
                file.unlink()

        self._moments("remove", path, half, lambda: shutil.rmtree(hidden))


def half_written(path: Path, data: bytes) -> None:
    """The first half of a file."""
    path.write_bytes(data[: len(data) // 2])


class PowerCutError(Exception):
    """The machine is gone: nothing that it still tries happens."""


def dies_at(number: int, phase: Phase) -> FaultyDisk:
    """A disk that is gone from one moment on."""
    dead = False

    def act(moment: Moment) -> None:
        nonlocal dead
        dead = dead or (moment.number, moment.phase) == (number, phase)
        if dead:
            raise PowerCutError

    return FaultyDisk(act)


def fails_at(number: int, phase: Phase, code: int = errno.EIO) -> FaultyDisk:
    """A disk that fails once."""

    def act(moment: Moment) -> None:
        if (moment.number, moment.phase) == (number, phase):
            raise OSError(code, os.strerror(code), moment.name)

    return FaultyDisk(act)


def kills_at(is_moment: Callable[[Moment], bool]) -> FaultyDisk:
    """A disk whose user is ended by SIGKILL at a moment."""

    def act(moment: Moment) -> None:
        if is_moment(moment):
            os.kill(os.getpid(), signal.SIGKILL)

    return FaultyDisk(act)
