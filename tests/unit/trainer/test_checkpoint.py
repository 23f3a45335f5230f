"""Whatever happens while a checkpoint is written, the newest complete one is whole; and only a fitting one is taken."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finetune_contract import ExitCode
from finetune_contract.paths import CHECKPOINTS
from finetune_trainer.checkpoint import Retention, complete_checkpoints, damage, opened
from finetune_trainer.distributed import World
from finetune_trainer.failures import AgreedError
from finetune_trainer.model import ALL_ROWS
from finetune_trainer.stopping import StopAgreedError
from finetune_trainer.strategies import Trained
from support.checkpoints import (
    BYTES,
    SETTINGS,
    SHAPES,
    FaultyDisk,
    Phase,
    dies_at,
    fails_at,
    found,
    saved,
    saver,
    state,
)


def steps(folder: Path) -> list[int]:
    return [opened(path).state.step for path in complete_checkpoints(folder / CHECKPOINTS)]


def test_what_is_saved_comes_back(tmp_path: Path, alone: World) -> None:
    report = saved(tmp_path, 3, alone)
    taken = found(tmp_path, alone)
    assert taken is not None
    assert taken.state == state(3)
    assert sorted(taken.names) == ["a", "b"]
    assert torch.equal(taken.exp_avg_sq("b", slice(1, 3)), torch.full((2, 2), 5.0))
    assert report.step == 3
    assert Path(report.path) == taken.path
    assert report.bytes == taken.report().bytes
    assert report.bytes == sum(file.stat().st_size for file in taken.path.iterdir() if file.name != "COMPLETE")


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("broken", [dies_at, fails_at])
def test_a_fault_at_any_moment_leaves_a_sound_newest_checkpoint(
    tmp_path: Path, alone: World, broken: Callable[[int, Phase], FaultyDisk], phase: Phase, keep: int
) -> None:
    number = 0
    saved(tmp_path / "begin", 1, alone, keep=keep)
    saved(tmp_path / "begin", 2, alone, keep=keep)
    while True:
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "begin", folder)
        disk = broken(number, phase)
        try:
            saved(folder, 3, alone, keep=keep, disk=disk)
            reason = None
        except AgreedError as error:
            reason = error.failure.reason
            if broken is fails_at:  # the process lives: it leaves nothing half-written
                assert not list((folder / CHECKPOINTS).glob(".growing-*"))
        assert reason in (None, "OutputVolumeFailed" if broken is fails_at else "PowerCutError")
        taken = found(folder, alone)
        assert taken is not None
        assert damage(taken.path) is None
        assert taken.state.step in ((2, 3) if reason else (3,))
        assert float(taken.weight("a", ALL_ROWS)[0, 0]) == taken.state.step
        if disk.verbs <= number:
            break
        saved(folder, 4, alone, keep=keep)  # and the next save removes what the fault has left
        assert steps(folder)[0] == 4
        assert len(list((folder / CHECKPOINTS).iterdir())) == len(steps(folder)) <= keep
        number += 1
    assert number == 6, "a folder, tensors, state, COMPLETE, the name, and one that goes"


def test_nothing_is_removed_before_the_new_one_is_complete(tmp_path: Path, alone: World) -> None:
    there: list[list[int]] = []
    saved(tmp_path, 1, alone, keep=1)
    saved(tmp_path, 2, alone, keep=1, disk=FaultyDisk(lambda _: there.append(steps(tmp_path))))
    before_removal = there[: len(there) - 3]
    assert [1] in before_removal
    assert [2, 1] in before_removal
    assert all(1 in each for each in before_removal)
    assert there[-1] == [2]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: flip(folder / "trained-0000-0001.safetensors"), "trained-0000-0001.safetensors is not as it"),
        (lambda folder: flip(folder / "trainer_state.json"), "trainer_state.json is not as it was written"),
        (lambda folder: cut(folder / "trained-0000-0001.safetensors"), "bytes instead of"),
        (lambda folder: (folder / "trained-0000-0001.safetensors").unlink(), "No such file"),
        (lambda folder: cut(folder / "COMPLETE"), "COMPLETE is not as it was written"),
        (lambda folder: (folder / "extra.safetensors").write_bytes(b""), "extra.safetensors does not belong to it"),
    ],
    ids=["bit", "state", "cut", "lost", "list", "stranger"],
)
def test_a_damaged_checkpoint_is_passed_over_and_does_not_count(
    tmp_path: Path, alone: World, harm: Callable[[Path], object], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 1, alone)
    saved(tmp_path, 2, alone)
    harm(tmp_path / CHECKPOINTS / "step-00000002")
    with caplog.at_level("WARNING", "finetune"):
        taken = found(tmp_path, alone)
    assert taken is not None
    assert taken.state.step == 1
    assert words in caplog.text
    assert "step-00000002" in caplog.text
    saved(tmp_path, 2, alone, keep=1)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000002"]
    assert damage(tmp_path / CHECKPOINTS / "step-00000002") is None


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(bytes(data))


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def test_no_checkpoint_is_better_than_a_damaged_one(tmp_path: Path, alone: World) -> None:
    saved(tmp_path, 1, alone)
    flip(tmp_path / CHECKPOINTS / "step-00000001" / "trainer_state.json")
    assert found(tmp_path, alone) is None


def test_a_rollback_finds_an_older_one(tmp_path: Path, alone: World) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step, alone, keep=3)
    taken = found(tmp_path, alone, not_after=2)
    assert taken is not None
    assert taken.state.step == 2
    assert found(tmp_path, alone, not_after=0) is None


def test_other_settings_are_refused_by_name(tmp_path: Path, alone: World) -> None:
    saved(tmp_path, 1, alone)
    with pytest.raises(AgreedError) as caught:
        found(tmp_path, alone, settings=SETTINGS | {"tokens": "b", "seed": 2})
    failure = caught.value.failure
    assert failure.exit_code is ExitCode.USER_ERROR
    assert failure.reason == "CheckpointMismatch"
    assert "seed, prepared data differ, the first is seed: checkpoint 1, run 2;" in failure.message
    assert failure.details == ("seed: checkpoint 1, run 2", "prepared data: checkpoint a, run b")


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        (SHAPES | {"a": (4, 2)}, "exp_avg.a: checkpoint (3, 2), model (4, 2)"),
        ({"a": (3, 2)}, "exp_avg.b: checkpoint (3, 2), model None"),
        (SHAPES | {"c": (1,)}, "exp_avg.c: checkpoint None, model (1,)"),
    ],
    ids=["rank", "fewer", "more"],
)
def test_other_tensors_are_refused_by_name(
    tmp_path: Path, alone: World, shapes: dict[str, tuple[int, ...]], word: str
) -> None:
    saved(tmp_path, 1, alone)
    with pytest.raises(AgreedError) as caught:
        found(tmp_path, alone, shapes=shapes)
    assert caught.value.failure.reason == "CheckpointMismatch"
    assert "3 of its tensors differ" in caught.value.failure.message
    assert word in caught.value.failure.details
    assert complete_checkpoints(tmp_path / CHECKPOINTS), "a checkpoint of another run is not harmed"


def test_tensors_are_spread_over_files_of_bounded_size(tmp_path: Path, alone: World) -> None:
    many = (
        Trained(name=str(number), weight=value, exp_avg=value + 1, exp_avg_sq=value + 2)
        for number, value in enumerate(torch.ones(40, 10).unbind())
    )
    saving = saver(tmp_path, alone, file_bytes=1000)
    saving.begin(state(1), many, Retention(keep=1))
    assert saving.wait(lambda: False) is not None
    folder = tmp_path / CHECKPOINTS / "step-00000001"
    files = json.loads((folder / "COMPLETE").read_text())["files"]
    assert len(files) == 1 + 5
    assert len(opened(folder).names) == 40


def test_a_full_disk_is_a_user_error_with_need_and_room(tmp_path: Path, alone: World) -> None:
    saved(tmp_path, 1, alone)
    for number in range(5):
        with pytest.raises(AgreedError) as caught:
            saved(tmp_path, 2, alone, disk=fails_at(number, Phase.MIDDLE, errno.ENOSPC))
        failure = caught.value.failure
        assert failure.exit_code is ExitCode.USER_ERROR
        assert failure.reason == "DiskFull"
        assert f"step-00000002 needs {BYTES:,} bytes" in failure.message
        assert "bytes are free" in failure.message
        assert "step-00000001 is kept" in failure.message
        assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("code", "exit_code", "reason"),
    [
        (errno.EROFS, ExitCode.USER_ERROR, "OutputNotWritable"),
        (errno.EDQUOT, ExitCode.USER_ERROR, "DiskFull"),
        (errno.ESTALE, ExitCode.INFRASTRUCTURE, "OutputVolumeFailed"),
        (errno.EIO, ExitCode.INFRASTRUCTURE, "OutputVolumeFailed"),
    ],
)
def test_what_a_volume_answers_has_its_own_name(
    tmp_path: Path, alone: World, code: int, exit_code: ExitCode, reason: str
) -> None:
    for number in (0, 1, 3):
        with pytest.raises(AgreedError) as caught:
            saved(tmp_path, 1, alone, disk=fails_at(number, Phase.BEFORE, code))
        assert (caught.value.failure.exit_code, caught.value.failure.reason) == (exit_code, reason)


class Told:
    requested = True
    seconds = 1.0


def test_a_stop_is_heeded_while_a_checkpoint_is_checked_or_read(tmp_path: Path, alone: World) -> None:
    saved(tmp_path, 1, alone)
    taken = found(tmp_path, alone)
    assert taken is not None

    class ToldWhenRead:
        requested = False
        seconds = 0.0

    stop = ToldWhenRead()
    taken = found(tmp_path, alone, stop=stop)
    assert taken is not None
    stop.requested = True
    with pytest.raises(StopAgreedError):
        taken.weight("a", ALL_ROWS)
