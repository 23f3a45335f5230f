"""Real volumes: full, read-only, seen by one rank alone, and cut off from power at every moment of a save."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_contract import ExitCode
from finetune_contract.paths import CHECKPOINTS
from finetune_trainer.checkpoint import check_room, check_shared, complete_checkpoints, damage
from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.layout import step_of
from finetune_trainer.distributed import World
from finetune_trainer.failures import AgreedError, UserError
from support import volumes
from support.checkpoints import BYTES, FaultyDisk, Moment, Phase, found, saved

MOUNTS = pytest.mark.skipif(volumes.missing() is not None, reason=str(volumes.missing()))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A volume of 256 KiB."""
    with volumes.tmpfs(tmp_path / "small", 2**18) as folder:
        yield folder


@MOUNTS
@pytest.mark.parametrize("verb", ["make_folder", "write_tensors", "write"])
def test_no_space_left_at_any_verb(small: Path, alone: World, verb: str) -> None:
    saved(small, 1, alone)

    def fill(moment: Moment) -> None:
        if moment.verb == verb and moment.phase is Phase.BEFORE and not (small / "filler").exists():
            volumes.fill(small)

    with pytest.raises(AgreedError) as caught:
        saved(small, 2, alone, disk=FaultyDisk(fill))
    failure = caught.value.failure
    assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "DiskFull")
    assert f"step-00000002 needs {BYTES:,} bytes" in failure.message
    assert "step-00000001 is kept" in failure.message
    assert [path.name for path in (small / CHECKPOINTS).iterdir()] == ["step-00000001"]
    taken = found(small, alone)
    assert taken is not None
    assert taken.state.step == 1
    (small / "filler").unlink()
    saved(small, 2, alone)


@MOUNTS
def test_room_is_counted_before_there_is_any_checkpoint(small: Path, alone: World) -> None:
    free = shutil.disk_usage(small).free
    said = check_room(small / CHECKPOINTS, checkpoint_bytes=free // 3, most=3, saves_left=9)
    assert "up to 3 more" in said
    with pytest.raises(UserError, match="needed for 4 checkpoints") as caught:
        check_room(small / CHECKPOINTS, checkpoint_bytes=free // 3, most=4, saves_left=9)
    assert caught.value.failure.reason == "DiskFull"
    assert "checkpoint.keep" in caught.value.failure.message
    check_room(small / CHECKPOINTS, checkpoint_bytes=free // 3, most=4, saves_left=2)  # a short run saves twice
    saved(small, 1, alone)
    free = shutil.disk_usage(small).free
    check_room(small / CHECKPOINTS, checkpoint_bytes=free // 3, most=4, saves_left=9)  # one of the four is there
    check_room(small / CHECKPOINTS, checkpoint_bytes=free * 2, most=4, saves_left=0)  # nothing will be saved
    with pytest.raises(UserError):
        check_room(small / CHECKPOINTS, checkpoint_bytes=free + 1, most=1, saves_left=9)  # a new one before an old goes


@MOUNTS
def test_a_read_only_volume_is_refused_by_name(tmp_path: Path, alone: World) -> None:
    (tmp_path / "run").mkdir()
    check_shared(tmp_path / "run", alone, Disk())
    assert list((tmp_path / "run").iterdir()) == []
    with volumes.read_only(tmp_path / "run"), pytest.raises(AgreedError) as caught:
        check_shared(tmp_path / "run", alone, Disk())
    assert (caught.value.failure.exit_code, caught.value.failure.reason) == (ExitCode.USER_ERROR, "OutputNotWritable")
    assert "read-write" in caught.value.failure.message


@MOUNTS
def test_a_power_cut_after_any_moment_leaves_the_checkpoint_before(tmp_path: Path, alone: World) -> None:
    """The image of a mounted file system is what its disk would hold if the power went now."""
    image, images = tmp_path / "disk.img", []

    def copied(moment: Moment) -> None:
        images.append(tmp_path / f"{moment.number}-{moment.phase}.img")
        shutil.copyfile(image, images[-1])

    with volumes.ext4(image, tmp_path / "disk", size="2M") as folder:
        saved(folder, 1, alone, keep=1)
        saved(folder, 2, alone, keep=1, disk=FaultyDisk(copied))
        shutil.copyfile(image, tmp_path / "end.img")
    assert len(images) == 3 * 6
    newest = [_newest_step(each, tmp_path / "later") for each in [*images, tmp_path / "end.img"]]
    assert newest == sorted(newest)
    assert newest[0] == 1
    named = images.index(tmp_path / "4-after.img")  # the rename has returned
    assert set(newest[named:]) == {2}, "what has returned is on the disk"


def _newest_step(image: Path, mount: Path) -> int:
    with volumes.ext4(image, mount) as folder:
        complete = complete_checkpoints(folder / CHECKPOINTS)
        assert [damage(each) for each in complete] == [None] * len(complete)
        return step_of(complete[0])
