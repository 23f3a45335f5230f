"""Clocks that are wrong or put back: nothing is taken to be hung, stale or old that is not."""

import dataclasses

import pytest

from finetune_operator.lifecycle.stalls import LATER_SECONDS
from finetune_operator.observation import Attempt
from finetune_operator.status import Phase
from support.runs import START, there
from unit.lifecycle.story import Story, trained

HANG_SECONDS = 600
HOURS_2 = 7200.0


def told(story: Story, step: int, trainers_clock: float, still_seconds: float = 0.0) -> Attempt:
    """What rank 0 has just said, by a clock of its own."""
    said = trained(step=step, at=trainers_clock, still_seconds=still_seconds, step_seconds=1.0)
    return dataclasses.replace(said, progress_seen_at=story.now + 60)


@pytest.mark.parametrize("wrong_by", [-HOURS_2, 0.0, HOURS_2])
def test_a_trainer_that_steps_is_not_hung_whatever_its_clock_says(wrong_by: float) -> None:
    story = Story(recovery={"hangTimeoutSeconds": HANG_SECONDS})
    for minute in range(30):
        story.see(told(story, 10 + minute, story.now + 60 + wrong_by), after=60)
        assert story.phase() is Phase.RUNNING
        assert not there(story.status.progress).stale
    assert there(story.status.progress).step == 39


@pytest.mark.parametrize("wrong_by", [-HOURS_2, 0.0, HOURS_2])
def test_a_trainer_that_steps_no_more_is_hung_whatever_its_clock_says(wrong_by: float) -> None:
    story = Story(recovery={"hangTimeoutSeconds": HANG_SECONDS})
    last = story.now + 60 + wrong_by
    for still_seconds in range(0, HANG_SECONDS + LATER_SECONDS + 1, 60):
        story.see(told(story, 10, last, still_seconds), after=60)
        assert story.status.attempts[0].cause is None
    story.see(told(story, 10, last, HANG_SECONDS + LATER_SECONDS + 60), after=60)
    assert story.status.attempts[0].cause == "Hang"


def test_a_trainers_clock_that_is_put_back_hides_no_step() -> None:
    story = Story(recovery={"hangTimeoutSeconds": HANG_SECONDS})
    story.see(told(story, 10, START + 60), after=60)
    story.see(told(story, 20, START - HOURS_2), after=60)
    assert there(story.status.progress).step == 20
    story.see(told(story, 20, START - HOURS_2 - 60), after=60)  # an answer of before, that came late
    assert there(story.status.progress).step == 20


def test_figures_of_a_silent_rank_are_stale_to_an_operator_that_never_heard_it() -> None:
    """It was started again, and goes by when its predecessor first saw these figures."""
    story = Story()
    story.see(told(story, 10, START + HOURS_2), after=60)
    silent = dataclasses.replace(trained(), progress=None, progress_seen_at=None)
    story.see(silent, after=61)
    assert there(story.status.progress).stale


def test_a_look_that_shows_nothing_new_changes_nothing() -> None:
    story = Story()
    story.see(told(story, 10, START + 60), after=60)
    before = story.status
    story.see(told(story, 10, START + 60), after=60)
    assert story.status == before
