"""The API server's time, by its answers."""

from email.utils import formatdate

import pytest

from finetune_operator.backends.kubernetes.clock import ServerClock
from support.runs import START


class Machine:
    """This machine's clocks."""

    def __init__(self, wall: float) -> None:
        self.wall, self.ticks = wall, 500.0

    def clock(self) -> ServerClock:
        return ServerClock(lambda: self.ticks, lambda: self.wall)

    def pass_seconds(self, seconds: float) -> None:
        self.wall, self.ticks = self.wall + seconds, self.ticks + seconds


def date(seconds: float) -> str:
    """As in an answer's header: whole seconds."""
    return formatdate(seconds, usegmt=True)


@pytest.mark.parametrize("wrong_by", [-86400.0, -3.0, 0.0, 3.0, 86400.0])
def test_one_answer_sets_a_clock_that_is_wrong(wrong_by: float) -> None:
    machine = Machine(START + wrong_by)
    clock = machine.clock()
    machine.pass_seconds(0.2)
    clock.heard(date(START + 0.2), asked_at=500.0)
    assert abs(clock() - (START + 0.2)) <= 1


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_jump_of_this_machines_clock_is_not_seen(jump: float) -> None:
    machine = Machine(START)
    clock = machine.clock()
    machine.wall += jump
    machine.pass_seconds(10)
    assert clock() == START + 10


def test_answers_that_fit_move_nothing() -> None:
    machine = Machine(START + 0.5)
    clock = machine.clock()
    for _ in range(100):
        asked_at = machine.ticks
        machine.pass_seconds(0.25)
        clock.heard(date(machine.wall), asked_at)
    assert clock() == machine.wall


def test_a_slow_answer_says_little_and_nonsense_says_nothing() -> None:
    machine = Machine(START)
    clock = machine.clock()
    machine.pass_seconds(30)
    clock.heard(date(START + 10), asked_at=500.0)
    clock.heard("yesterday", asked_at=500.0)
    clock.heard(None, asked_at=500.0)
    assert clock() == START + 30
