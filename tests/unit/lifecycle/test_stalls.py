"""When an attempt is ended for standing still, which its own launchers should have seen before."""

import dataclasses
from typing import Any

import pytest

from finetune_contract import ExitCode, Stage
from finetune_operator.lifecycle import StopAttempt, text
from finetune_operator.lifecycle.stalls import LATER_SECONDS
from finetune_operator.observation import Attempt, WorkerState
from support.runs import START, attempt, failed_outcome, there, worker
from unit.lifecycle.story import SETTINGS, Story, trained

WAITING, FAILED = WorkerState.WAITING, WorkerState.FAILED
FLOOR = 60
STALE = SETTINGS.stale_after_seconds


def story() -> Story:
    return Story(recovery={"hangTimeoutSeconds": FLOOR})


def said(seconds: float, **fields: Any) -> Attempt:
    """What rank 0 answers so many seconds after the start."""
    return trained(at=START + seconds, **{"step_seconds": 1.0} | fields)


def limit_of(**fields: Any) -> float:
    """How long rank 0 may say that it stands still."""
    seen = story()
    seen.see(said(0))
    for seconds in range(FLOOR, 20_000, 20):
        told = said(seconds, still_seconds=float(seconds), **fields)
        seen.see(told, after=START + seconds - seen.now)
        if seen.status.attempts[0].ended_at is not None:
            return seconds
    raise AssertionError("for ever")


@pytest.mark.parametrize(
    ("fields", "trainers_own"),
    [
        ({}, FLOOR),
        ({"step_seconds": 30.0}, 300),
        ({"step_seconds": None}, 1800),
        ({"stage": Stage.LOADING}, 1800),
        ({"stage": Stage.EVALUATING}, FLOOR),
        ({"stage": Stage.SAVING}, 3600),
        ({"stage": Stage.EXPORTING}, 3600),
    ],
)
def test_each_phase_has_its_limit_and_the_trainer_s_own_comes_first(
    fields: dict[str, Any], trainers_own: float
) -> None:
    assert limit_of(**fields) == trainers_own + LATER_SECONDS + 20


def test_an_attempt_that_stands_still_is_ended_and_counts() -> None:
    seen = story()
    seen.see(said(0))
    decision = seen.see(said(300, still_seconds=300.0, step_seconds=12.0), after=300)
    assert decision.actions == ()
    decision = seen.see(said(320, still_seconds=320.0, step_seconds=12.0), after=20)
    assert decision.actions == (StopAttempt(1, force=True),)
    record = seen.status.attempts[0]
    assert (record.cause, record.decision, seen.status.failures) == ("Hang", "Retry", 1)
    assert there(record.message).startswith("step 11: rank 0 has not moved for 5m, where 5m are allowed (recovery.")


def test_a_save_that_gets_on_slowly_is_no_hang() -> None:
    seen = story()
    saving = trained(at=START, stage=Stage.SAVING, still_seconds=900.0)  # no stage is begun, but files are written
    for _ in range(24):
        seen.see(dataclasses.replace(saving, progress_seen_at=seen.now + 3600), after=3600)
    assert seen.status.attempts[0].ended_at is None


def test_a_rank_that_says_nothing_is_given_as_long() -> None:
    seen = story()
    seen.see(said(0))
    silent = said(0)
    seen.see(silent, after=STALE)
    assert seen.status.attempts[0].silent_since is None, "a missed answer is no silence"
    seen.see(silent, after=LATER_SECONDS + FLOOR - STALE)
    assert there(seen.status.attempts[0].silent_since) == text.timestamp(START)
    assert seen.status.attempts[0].ended_at is None
    seen.see(silent, after=1)
    record = seen.status.attempts[0]
    assert record.cause == "Hang"
    assert there(record.message).startswith("step 11: rank 0 has told nothing since, for 4m, where 4m are allowed")


def test_a_rank_that_is_heard_again_was_not_silent() -> None:
    seen = story()
    seen.see(said(0))
    seen.see(said(0), after=200)
    assert seen.status.attempts[0].silent_since is not None
    seen.see(said(230), after=30)
    assert seen.status.attempts[0].silent_since is None
    seen.see(said(230), after=200)
    assert seen.status.attempts[0].ended_at is None


def test_an_operator_that_was_away_begins_to_wait_anew() -> None:
    seen = story()
    seen.see(said(0))
    unheard = attempt()  # its first look after a day, and rank 0 happens not to answer
    seen.see(unheard, after=86_400)
    assert seen.status.attempts[0].ended_at is None
    seen.see(unheard, after=FLOOR + LATER_SECONDS + 1)
    assert seen.status.attempts[0].cause == "Hang"


def test_time_in_the_queue_is_no_hang() -> None:
    seen = story()
    waiting = attempt(worker(0, WAITING), worker(1))
    seen.see(waiting)
    seen.see(waiting, after=86_400)
    assert seen.status.attempts[0].ended_at is None
    seen.see(attempt())
    seen.see(attempt(), after=1800 + LATER_SECONDS + 1)
    assert seen.status.attempts[0].cause == "Hang"
    assert there(seen.status.attempts[0].message).startswith("stage Loading after step 0: rank 0 has told nothing")


def hung(**fields: Any) -> Attempt:
    told = {"message": "step 11: rank 1 has not moved", "rank": 1, "step": 10} | fields
    own = worker(0, FAILED, outcome=failed_outcome(ExitCode.HANG, "Hang", **told))
    peer = worker(1, FAILED, outcome=failed_outcome(ExitCode.INFRASTRUCTURE, "PeerLost"))
    return attempt(own, peer, is_failed=True)


def test_what_the_launcher_says_of_a_hang_stands_in_the_record() -> None:
    seen = story()
    seen.see(said(0))
    decision = seen.see(hung(stacks_dir="/output/huanhuan/attempts/1/stacks"), after=5, output_claim="huanhuan-output")
    record = seen.status.attempts[0]
    assert (record.cause, record.reason, record.decision) == ("Hang", "Hang", "Retry")
    assert (record.exit_code, record.rank, record.message) == (68, 1, "rank 1: step 11: rank 1 has not moved")
    assert record.stacks == "claim huanhuan-output: /output/huanhuan/attempts/1/stacks"
    assert seen.status.failures == 1
    assert decision.actions != ()


def test_a_laptop_s_stacks_lie_in_a_folder() -> None:
    seen = story()
    seen.see(said(0))
    seen.see(hung(stacks_dir="/home/me/runs/huanhuan/attempts/1/stacks"), after=5)
    assert seen.status.attempts[0].stacks == "/home/me/runs/huanhuan/attempts/1/stacks"
