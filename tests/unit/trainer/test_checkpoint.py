"""Whatever happens while a checkpoint is written, the newest complete one is whole."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_contract import ExitCode
from finetune_contract.paths import CHECKPOINTS
from finetune_trainer import checkpoint
from finetune_trainer.checkpoint import Disk, TrainerState, complete_checkpoints, damage, newest, opened, save
from finetune_trainer.distributed import World
from finetune_trainer.failures import AgreedError
from finetune_trainer.model import ALL_ROWS
from finetune_trainer.strategies import Trained

SETTINGS: dict[str, Any] = {"precision": "Fp32", "seed": 1, "tokens": "a"}


class PowerCutError(Exception):
    """The machine is gone."""


class FailingDisk(Disk):
    """Works until its n-th verb, which it does half."""

    def __init__(self, verbs: int, error: Exception) -> None:
        self._left, self._error = verbs, error

    def _use(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._error

    def write(self, path: Path, data: bytes) -> None:
        try:
            self._use()
        except Exception:
            path.write_bytes(data[: len(data) // 2])
            raise
        super().write(path, data)

    def make_folder(self, path: Path) -> None:
        self._use()
        super().make_folder(path)

    def rename(self, old: Path, new: Path) -> None:
        self._use()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._use()
        super().remove(path)


def state(step: int, settings: dict[str, Any] = SETTINGS) -> TrainerState:
    return TrainerState(
        step=step, updates=step, loss_scale=1.0, quiet_updates=step, tokens=step * 10, loss=2.0, validation_loss=None,
        validated_step=0, settings=settings, fingerprint=checkpoint.fingerprint(settings), versions={},
    )  # fmt: skip


def trained(step: int) -> Iterator[Trained]:
    for name in ("a", "b"):
        value = torch.full((3, 2), float(step))
        yield Trained(name=name, weight=value, exp_avg=value + 1, exp_avg_sq=value + 2)


def saved(folder: Path, step: int, world: World, *, keep: int = 2, disk: Disk | None = None) -> None:
    save(folder, state(step), trained(step), world, keep=keep, disk=disk)


def test_what_is_saved_comes_back(tmp_path: Path, alone: World) -> None:
    saved(tmp_path, 3, alone)
    found = newest(tmp_path, SETTINGS, alone)
    assert found is not None
    assert found.state == state(3)
    assert found.names == ["a", "b"]
    assert torch.equal(found.exp_avg_sq("b", slice(1, 3)), torch.full((2, 2), 5.0))


def test_a_crash_at_any_write_leaves_a_sound_newest_checkpoint(tmp_path: Path, alone: World) -> None:
    steps = iter(range(3, 1000))
    saved(tmp_path, 1, alone)
    saved(tmp_path, 2, alone)
    for verbs in range(20):
        step = next(steps)
        disk = FailingDisk(verbs, PowerCutError())
        try:
            saved(tmp_path, step, alone, disk=disk)
        except AgreedError:
            found = newest(tmp_path, SETTINGS, alone)
            assert found is not None
            assert damage(found.path) is None
            assert float(found.weight("a", ALL_ROWS)[0, 0]) == found.state.step
        else:
            break
    assert 3 < verbs < 15, "every verb of a save has failed once, and then none"
    names = [path.name for path in (tmp_path / CHECKPOINTS).iterdir()]
    assert sorted(names) == sorted(path.name for path in complete_checkpoints(tmp_path / CHECKPOINTS))
    assert len(names) == 2


def test_a_full_disk_is_a_user_error_with_sizes(tmp_path: Path, alone: World) -> None:
    disk = FailingDisk(1, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(AgreedError) as caught:
        saved(tmp_path, 1, alone, disk=disk)
    assert caught.value.failure.exit_code is ExitCode.USER_ERROR
    assert caught.value.failure.reason == "DiskFull"
    assert "bytes to write" in caught.value.failure.message
    assert "free" in caught.value.failure.message


def test_the_newest_ones_are_kept(tmp_path: Path, alone: World) -> None:
    for step in range(1, 6):
        saved(tmp_path, step, alone, keep=3)
    assert [opened(path).state.step for path in complete_checkpoints(tmp_path / CHECKPOINTS)] == [5, 4, 3]


@pytest.mark.parametrize("file", ["trained-00001.safetensors", "trainer_state.json"])
def test_a_damaged_checkpoint_is_passed_over_and_does_not_count(tmp_path: Path, alone: World, file: str) -> None:
    saved(tmp_path, 1, alone)
    saved(tmp_path, 2, alone)
    broken = tmp_path / CHECKPOINTS / "step-00000002" / file
    data = bytearray(broken.read_bytes())
    data[-2] ^= 1
    broken.write_bytes(bytes(data))
    found = newest(tmp_path, SETTINGS, alone)
    assert found is not None
    assert found.state.step == 1
    save(tmp_path, state(2), trained(2), alone, keep=1)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000002"]
    assert damage(tmp_path / CHECKPOINTS / "step-00000002") is None


def test_other_settings_are_refused_by_name(tmp_path: Path, alone: World) -> None:
    saved(tmp_path, 1, alone)
    with pytest.raises(AgreedError) as caught:
        newest(tmp_path, SETTINGS | {"tokens": "b", "seed": 2}, alone)
    failure = caught.value.failure
    assert failure.reason == "CheckpointMismatch"
    assert "seed, tokens differ" in failure.message
    assert failure.details == ("seed: checkpoint 1, run 2", "tokens: checkpoint a, run b")


def test_tensors_are_spread_over_files_of_bounded_size(tmp_path: Path, alone: World) -> None:
    many = (
        Trained(name=str(number), weight=value, exp_avg=value + 1, exp_avg_sq=value + 2)
        for number, value in enumerate(torch.ones(40, 10).unbind())
    )
    save(tmp_path, state(1), many, alone, keep=1, file_bytes=1000)
    folder = tmp_path / CHECKPOINTS / "step-00000001"
    files = json.loads((folder / "COMPLETE").read_text())["files"]
    assert len(files) == 1 + 5
    assert len(opened(folder).names) == 40
