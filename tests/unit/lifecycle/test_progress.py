"""What the status says of a training."""

import dataclasses

from finetune_contract import Stage
from finetune_operator.status import ConditionType, Phase
from support.runs import (
    START,
    there,
)
from unit.lifecycle.story import Story, trained


def test_progress_never_falls_within_an_attempt() -> None:
    story = Story()
    story.see(trained(step=30, at=START + 100), after=100)
    story.see(trained(step=20, at=START + 200), after=100)
    assert there(story.status.progress).step == 30


def test_progress_is_written_at_most_once_in_its_interval() -> None:
    story = Story()
    story.see(trained(step=30))
    story.see(trained(step=31, at=START + 5), after=5)
    assert there(story.status.progress).step == 30
    story.see(trained(step=32, at=START + 10), after=5)
    assert there(story.status.progress).step == 32


def test_figures_of_a_silent_rank_are_marked_stale() -> None:
    story = Story()
    story.see(trained())
    silent = dataclasses.replace(trained(), progress=None, progress_seen_at=None)
    story.see(silent, after=60)
    assert not there(story.status.progress).stale
    story.see(silent, after=1)
    assert there(story.status.progress).stale
    assert story.phase() is Phase.RUNNING, "a missed answer is no end"


def test_conditions_keep_their_transition_time_while_their_status_stays() -> None:
    story = Story()
    story.see(trained())
    before = story.condition(ConditionType.RUNNING)
    story.see(trained(step=20, at=START + 60, stage=Stage.SAVING), after=60)
    now = story.condition(ConditionType.RUNNING)
    assert (now.reason, now.last_transition_time) == ("Saving", before.last_transition_time)
