"""A save beside the training: what it holds, when training waits, and how it ends."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from finetune_contract import CheckpointReport
from finetune_contract.paths import CHECKPOINTS
from finetune_trainer.checkpoint import Retention, Saver, complete_checkpoints
from finetune_trainer.distributed import World
from finetune_trainer.failures import AgreedError
from finetune_trainer.model import ALL_ROWS
from finetune_trainer.stopping import Deadline
from finetune_trainer.strategies import Trained
from support.checkpoints import FaultyDisk, Moment, Phase, fails_at, found, saved, saver, state, trained

SECONDS = 20


class Gate:
    """A disk that waits at the first tensors until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.disk = FaultyDisk(self._wait)

    def _wait(self, moment: Moment) -> None:
        if moment.verb == "write_tensors" and moment.phase is Phase.BEFORE:
            self.reached.set()
            assert self.opened.wait(SECONDS)


def until_ended(saving: Saver) -> CheckpointReport:
    """The report, as the steps of a training would come to it."""
    while (report := saving.ended()) is None:
        threading.Event().wait(0.01)
    return report


def test_training_goes_on_and_changes_nothing_in_the_snapshot(tmp_path: Path, alone: World) -> None:
    gate = Gate()
    saving = saver(tmp_path, alone, gate.disk)
    parameters = list(trained(1))
    saving.begin(state(1), iter(parameters), Retention(keep=2))
    assert gate.reached.wait(SECONDS)
    assert saving.is_busy
    assert saving.ended() is None, "it is still being written"
    for each in parameters:
        for tensor in (each.weight, each.exp_avg, each.exp_avg_sq):
            tensor.fill_(-1.0)
    gate.opened.set()
    report = saving.wait(lambda: False)
    assert report is not None
    assert not saving.is_busy
    taken = found(tmp_path, alone)
    assert taken is not None
    assert [float(read("b", ALL_ROWS)[0, 0]) for read in (taken.weight, taken.exp_avg, taken.exp_avg_sq)] == [1, 2, 3]


def test_time_is_counted_whole_and_as_far_as_training_waited(tmp_path: Path, alone: World) -> None:
    gate = Gate()
    saving = saver(tmp_path, alone, gate.disk)
    saving.begin(state(1), trained(1), Retention(keep=2))
    assert gate.reached.wait(SECONDS)
    threading.Event().wait(0.3)  # the disk is slow, and training goes on
    gate.opened.set()
    report = until_ended(saving)
    assert report.seconds >= 0.3
    assert report.blocking_seconds < 0.3

    slow = Gate()
    saving = saver(tmp_path, alone, slow.disk)
    saving.begin(state(2), trained(2), Retention(keep=2))
    threading.Timer(0.3, slow.opened.set).start()
    waited = saving.wait(lambda: False)
    assert waited is not None
    assert waited.blocking_seconds == pytest.approx(waited.seconds, abs=0.1)


def test_a_buffer_that_is_full_holds_training_up(tmp_path: Path, alone: World) -> None:
    gate, handed_over = Gate(), []

    def parameters() -> Iterator[Trained]:
        for number in range(40):
            handed_over.append(number)
            value = torch.ones(100)
            yield Trained(name=str(number), weight=value, exp_avg=value, exp_avg_sq=value)

    saving = saver(tmp_path, alone, gate.disk, asynchronous=False, file_bytes=1200)
    saving.buffer_bytes = 2400
    thread = threading.Thread(target=saving.begin, args=(state(1), parameters(), Retention(keep=1)))
    thread.start()
    assert gate.reached.wait(SECONDS)
    thread.join(0.3)
    assert thread.is_alive()
    assert len(handed_over) <= 1 + 3, "one file at the gate, two in the buffer, and the next tensor"
    gate.opened.set()
    thread.join(SECONDS)
    assert saving.wait(lambda: False) is not None
    assert len(handed_over) == 40


def test_a_failure_is_told_when_it_is_asked_for(tmp_path: Path, alone: World) -> None:
    saved(tmp_path, 1, alone)
    saving = saver(tmp_path, alone, fails_at(1, Phase.MIDDLE))
    saving.begin(state(2), trained(2), Retention(keep=1))
    with pytest.raises(AgreedError) as caught:
        until_ended(saving)
    assert caught.value.failure.reason == "OutputVolumeFailed"
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000001"]
    assert not saving.is_busy


def test_who_is_out_of_time_leaves_a_save_behind(tmp_path: Path, alone: World) -> None:
    gate = Gate()
    saving = saver(tmp_path, alone, gate.disk)
    saving.begin(state(1), trained(1), Retention(keep=1))
    assert saving.wait(lambda: True) is None
    assert saving.is_busy
    gate.opened.set()
    assert saving.wait(lambda: False) is not None, "it was not harmed by the question"


def test_past_the_deadline_nothing_more_is_handed_over_and_nothing_becomes_complete(
    tmp_path: Path, alone: World
) -> None:
    gate = Gate()
    saving = saver(tmp_path, alone, gate.disk, asynchronous=False, file_bytes=16)
    saving.buffer_bytes = 16
    saving.begin(state(1), trained(1), Retention(keep=1), deadline=Deadline(0.0))
    gate.opened.set()
    assert saving.wait(lambda: True) is None
    assert complete_checkpoints(tmp_path / CHECKPOINTS) == []


def test_a_snapshot_that_cannot_be_taken_leaves_no_thread(tmp_path: Path, alone: World) -> None:
    def parameters() -> Iterator[Trained]:
        yield from trained(1)
        raise RuntimeError("out of memory")

    saving = saver(tmp_path, alone)
    with pytest.raises(RuntimeError, match="out of memory"):
        saving.begin(state(1), parameters(), Retention(keep=1))
    for thread in threading.enumerate():
        if thread.name == "saving":
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert complete_checkpoints(tmp_path / CHECKPOINTS) == []
    assert not saving.is_busy
