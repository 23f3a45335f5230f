"""Whole runs on real volumes that are full or read-only: what is trained is kept, and the next attempt goes on."""

import re
from pathlib import Path

import pytest

from finetune_contract import ExitCode, Failure, RunConfig
from finetune_trainer import recipe
from finetune_trainer.checkpoint import complete_checkpoints, damage
from finetune_trainer.checkpoint.layout import step_of
from finetune_trainer.distributed import World
from finetune_trainer.failures import AgreedError, failure_of
from finetune_trainer.running import Position
from multiproc.cases import NeverStop, config, losses, train
from support import volumes
from support.checkpoints import FaultyDisk, Moment, Phase

pytestmark = pytest.mark.skipif(volumes.missing() is not None, reason=str(volumes.missing()))
STEPS = 6


def run_in(output: Path, model: Path, tokens: Path, *, attempt: int = 1, asynchronous: bool = True) -> RunConfig:
    """Six steps with a checkpoint after every second one."""
    checkpoint = {"every_steps": 2, "keep": 1, "asynchronous": asynchronous}
    return config(output, model, tokens, max_steps=STEPS, checkpoint=checkpoint, attempt=attempt)


def failed(world: World, run: RunConfig, verb: str, name: str) -> Failure:
    """How a run fails when its volume fills up as a file or folder is about to be written."""

    def fill(moment: Moment) -> None:
        if (moment.verb, moment.phase) == (verb, Phase.BEFORE) and name in f"{moment.parent}/{moment.name}":
            volumes.fill(Path(run.output_dir).parent)

    Path(run.output_dir).mkdir(exist_ok=True)
    with pytest.raises((AgreedError, RuntimeError)) as caught:
        recipe.run(run, world, NeverStop(), Position(), FaultyDisk(fill))
    return failure_of(caught.value)


def newest(run: RunConfig) -> int:
    """The step of the newest checkpoint, of which all are sound."""
    found = complete_checkpoints(Path(run.output_dir) / "checkpoints")
    assert [damage(each) for each in found] == [None] * len(found)
    return step_of(found[0])


def test_a_run_whose_volume_fills_up_keeps_its_training_and_goes_on(
    tmp_path: Path, model: Path, tokens: Path, alone: World
) -> None:
    unbroken = tmp_path / "unbroken"
    train(alone, run_in(unbroken, model, tokens))
    with volumes.tmpfs(tmp_path / "small", 4 << 20) as volume:
        output, filler = volume / "run", volume / "filler"
        first = run_in(output, model, tokens, asynchronous=False)
        failure = failed(alone, first, "write_tensors", "step-00000004/trained-")
        assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "DiskFull")
        assert re.match(
            r"storage\.output: step-00000004 needs [\d,]+ bytes, and [\d,]+ bytes are free on "
            rf"{output}/checkpoints; step-00000002 is kept\. Give storage\.output more room, or lower checkpoint\.keep",
            failure.message,
        )
        assert newest(first) == 2

        filler.unlink()
        second = run_in(output, model, tokens, attempt=2)
        failure = failed(alone, second, "write_tensors", "adapter_model")
        assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "OutputFull")
        assert f"adapter of 0.00 GB does not fit the volume at {output}" in failure.message
        assert f"kept in {output}/checkpoints/step-00000006: a run of the same name" in failure.message
        assert newest(second) == STEPS
        assert not (output / "adapter").exists()

        filler.unlink()
        third = train(alone, run_in(output, model, tokens, attempt=3))
        assert third.exit_code is ExitCode.DONE
        assert losses(output, 1).keys() == {1, 2, 3, 4}
        assert losses(output, 1) | losses(output, 2) == losses(unbroken)
        assert losses(output, 3) == {}
        made, expected = ((each / "adapter" / "adapter_model.safetensors").read_bytes() for each in (output, unbroken))
        assert made == expected


def test_a_volume_that_fills_up_beside_a_save_is_named_whoever_sees_it_first(
    tmp_path: Path, model: Path, tokens: Path, alone: World
) -> None:
    """The training, as it notes a loss, or the thread that writes the checkpoint."""
    with volumes.tmpfs(tmp_path / "small", 4 << 20) as volume:
        run = run_in(volume / "run", model, tokens)
        failure = failed(alone, run, "write_tensors", "step-00000004/trained-")
        assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "DiskFull")
        assert failure.message.startswith("storage.output: ")
        assert str(volume / "run") in failure.message
        assert re.search(r"[\d,]+ bytes are free", failure.message)
        assert newest(run) == 2


def test_a_run_that_its_volume_has_no_room_for_does_no_step(
    tmp_path: Path, model: Path, tokens: Path, alone: World
) -> None:
    with volumes.tmpfs(tmp_path / "small", 128 << 10) as volume:
        run = run_in(volume / "run", model, tokens)
        with pytest.raises(AgreedError, match=r"[\d,]+ bytes are needed for \d checkpoints of [\d,]+ bytes") as caught:
            train(alone, run)
        assert caught.value.failure.reason == "DiskFull"
        assert losses(volume / "run") == {}


def test_a_read_only_volume_is_refused_before_any_step(tmp_path: Path, model: Path, tokens: Path, alone: World) -> None:
    (tmp_path / "run").mkdir()
    with volumes.read_only(tmp_path / "run"), pytest.raises(AgreedError) as caught:
        train(alone, run_in(tmp_path / "run", model, tokens))
    failure = caught.value.failure
    assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "OutputNotWritable")
    assert f"storage.output: {tmp_path / 'run'} cannot be written to" in failure.message
    assert "mount the volume read-write" in failure.message
