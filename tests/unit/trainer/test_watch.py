"""Whether ranks move, as their launcher sees it, and how long each phase may take."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune_contract import Stage, patience_seconds
from finetune_trainer.pulse import Pulse, Signs
from finetune_trainer.watch import LOOK_SECONDS, Stand, Watch

FLOOR = 60


class Bench:
    """Two ranks and a watch over them, whose clock goes as it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 0.0
        self.watch = Watch(folder, FLOOR, clock=lambda: self.now)
        self.ranks = [Pulse(), Pulse()]
        for rank, pulse in enumerate(self.ranks):
            pulse.show(folder / f"rank-{rank}.pulse")

    def passes(self, seconds: float, *moving: Pulse) -> tuple[Stand, ...]:
        """What is found by then, while these ranks give signs."""
        for _ in range(round(seconds / LOOK_SECONDS)):
            self.now += LOOK_SECONDS
            for pulse in moving:
                pulse.beat()
            found = self.watch.hung()
            if found:
                return found
        return ()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Both ranks are in the middle of a short step."""
    made = Bench(tmp_path)
    for pulse in made.ranks:
        pulse.say(Stage.TRAINING, 12, 0.5)
    return made


def test_signs_survive_their_journey(tmp_path: Path) -> None:
    pulse = Pulse()
    pulse.show(tmp_path / "own")
    assert Signs.of(tmp_path / "own") == Signs(1, None, 0, None)
    pulse.say(Stage.SAVING, 7, 0.25)
    pulse.beat()
    assert Signs.of(tmp_path / "own") == Signs(3, Stage.SAVING, 7, 0.25)


def test_a_pulse_that_nobody_feels_beats_as_well() -> None:
    pulse = Pulse()
    pulse.say(Stage.LOADING, 0, None)
    assert (pulse.count, pulse.still_seconds < 1) == (1, True)


def test_one_rank_that_stands_still_is_found_with_all_others(bench: Bench) -> None:
    moving, _ = bench.ranks
    assert bench.passes(FLOOR, moving) == ()
    first, second = bench.passes(5, moving)
    assert (first.is_hung, second.is_hung) == (False, True)
    assert (second.rank, second.phase, second.still_seconds) == (1, "step 13", FLOOR + LOOK_SECONDS)


def test_ranks_that_move_are_never_hung(bench: Bench) -> None:
    assert bench.passes(10 * FLOOR, *bench.ranks) == ()


def test_a_rank_that_waits_for_others_to_come_is_not_watched(tmp_path: Path) -> None:
    assert Bench(tmp_path).passes(10 * FLOOR) == ()


def test_a_rank_that_is_done_is_not_watched(bench: Bench) -> None:
    first, _ = bench.ranks
    (bench.folder / "rank-1.json").touch()
    assert bench.passes(10 * FLOOR, first) == ()


def test_time_in_which_the_launcher_did_not_run_counts_for_nobody(bench: Bench) -> None:
    bench.passes(10)
    bench.now += 10_000  # the laptop sleeps
    assert bench.watch.hung() == ()
    assert bench.passes(FLOOR - 20) == ()
    assert bench.passes(20) != ()


@dataclass(frozen=True)
class Case:
    """A phase, and how long it may stand still for a user who says `floor`."""

    stage: Stage
    step_seconds: float | None
    floor: int
    seconds: float


CASES = {
    "a short step has what the user gives": Case(Stage.TRAINING, 0.5, 600, 600),
    "a long step has ten times the median": Case(Stage.TRAINING, 90.0, 600, 900),
    "evaluation is as training": Case(Stage.EVALUATING, 90.0, 600, 900),
    "the first step compiles": Case(Stage.TRAINING, None, 60, 1800),
    "loading has half an hour between two tensors": Case(Stage.LOADING, None, 60, 1800),
    "loading is not measured by steps": Case(Stage.LOADING, 1000.0, 60, 1800),
    "saving has an hour for a file": Case(Stage.SAVING, 0.5, 60, 3600),
    "exporting has an hour for a file": Case(Stage.EXPORTING, 0.5, 60, 3600),
    "the user gives more": Case(Stage.EXPORTING, 0.5, 7200, 7200),
    "the way out is short": Case(Stage.DONE, 90.0, 60, 60),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_phase_has_its_patience(case: Case) -> None:
    assert patience_seconds(case.stage, case.step_seconds, case.floor) == case.seconds
