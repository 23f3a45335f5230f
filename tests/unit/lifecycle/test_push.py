"""What becomes of a finished run's push, moment by moment."""

import dataclasses
from typing import Any

import pytest

from finetune_contract import ExitCode, PushOutcome
from finetune_operator.lifecycle import Decision, DeleteRun, Planning, StartPush, StopPush, decide_pass, reopened
from finetune_operator.lifecycle.push import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from finetune_operator.observation import Observation, Push, WorkerState
from finetune_operator.planning import Plan, make_plan, push_request, push_target
from finetune_operator.settings import Limits, Settings
from finetune_operator.status import Condition, ConditionType, Phase, RecoveryStatus, Status
from support.runs import START, attempt, done_outcome, failed_push, preparation, pushed_outcome, run, there, worker

WAITING, RUNNING = WorkerState.WAITING, WorkerState.RUNNING
FAILED, SUCCEEDED = WorkerState.FAILED, WorkerState.SUCCEEDED
PUSH: dict[str, Any] = {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}
TRAINED = attempt(worker(0, SUCCEEDED, exit_code=0, outcome=done_outcome()), worker(1, SUCCEEDED, exit_code=0))
REFUSED = failed_push(ExitCode.USER_ERROR, "TokenRefused")
UNREACHABLE = failed_push(ExitCode.INFRASTRUCTURE, "HubUnreachable")


class Story:
    """A run whose training has just ended; `see` is one pass with what is left of its push."""

    def __init__(self, *, push: dict[str, Any] | None = PUSH, **spec: Any) -> None:
        self.spec = {"output": {} if push is None else {"push": push}} | spec
        self.run = run(**self.spec)
        self.status = Status()
        self.settings = Settings()
        self.now = START
        self.events: list[str] = []
        self._pass(Observation(preparation=preparation()))

    def see(self, push: Push | None = None, *, after: float = 0.0) -> Decision:
        """One pass."""
        self.now += after
        return self._pass(Observation(preparation=preparation(), attempts=(TRAINED,), push=push))

    def _pass(self, observation: Observation) -> Decision:
        def unasked(_: RecoveryStatus | None) -> Plan:
            raise AssertionError("a run whose training is over is not planned again")

        plan = unasked if self.status.artifacts else _plan_of(self)
        decision = decide_pass(self.run, self.status, observation, plan, self.settings, self.now)
        again = decide_pass(self.run, decision.status, observation, plan, self.settings, self.now)
        assert (again.status, again.actions, again.events) == (decision.status, decision.actions, ())
        self.status = decision.status
        self.events += [event.reason for event in decision.events]
        return decision

    def change(self, *, push: dict[str, Any] | None = PUSH, **spec: Any) -> None:
        """The user edits the spec."""
        self.spec = {"output": {} if push is None else {"push": push}} | spec
        self.run = run(generation=self.run.metadata.generation + 1, **self.spec)

    def seen(self, state: WorkerState, number: int = 1, **fields: Any) -> Push:
        """A push by the spec as it is now."""
        push = there(self.run.spec.output.push)
        told = {"target": push_target(self.run, push), "request": push_request(push)}
        return Push(number=number, state=state, created_at=self.now, **told | fields)

    def ended(self, outcome: PushOutcome, number: int = 1) -> Push:
        """A push that has ended with `outcome`."""
        state = SUCCEEDED if outcome.pushed else FAILED
        return self.seen(state, number, exit_code=int(outcome.exit_code), outcome=outcome)

    def phase(self) -> Phase:
        return self.status.phase

    def condition(self, type_: ConditionType) -> Condition:
        return next(condition for condition in self.status.conditions if condition.type is type_)


def _plan_of(story: Story) -> Planning:
    facts = there(preparation().outcome)
    made = make_plan(story.run, model=facts.model, dataset=facts.dataset, gpu_memory_bytes=None)
    return lambda _: made


def pushing() -> Story:
    """A run whose first push is under way."""
    story = Story()
    assert story.see().actions == (StartPush(1),)
    story.see(story.seen(RUNNING))
    return story


# A push that goes well


def test_a_run_without_a_push_succeeds_as_soon_as_it_is_trained() -> None:
    story = Story(push=None)
    assert story.see().actions == ()
    assert story.phase() is Phase.SUCCEEDED
    assert ConditionType.PUSHED not in {condition.type for condition in story.status.conditions}


def test_what_was_trained_is_recorded_before_it_is_pushed() -> None:
    story = Story()
    decision = story.see()
    assert decision.actions == (StartPush(1),)
    assert story.status.artifacts[0].path == "/output/huanhuan/adapter"
    assert (story.phase(), story.status.completion_time) == (Phase.PUSHING, None)
    assert "Succeeded" not in story.events


def test_the_run_succeeds_when_its_results_stand_on_the_hub() -> None:
    story = pushing()
    assert story.phase() is Phase.PUSHING
    story.see(story.ended(pushed_outcome()))
    assert story.phase() is Phase.SUCCEEDED
    place = there(story.status.artifacts[0].pushed)
    assert (place.url, place.commit) == ("https://huggingface.co/me/huanhuan/tree/main", "c" * 40)
    pushed = story.condition(ConditionType.PUSHED)
    assert (pushed.status, pushed.reason) == ("True", "Pushed")
    assert place.url in pushed.message
    assert story.events[-3:] == ["PushStarted", "Pushed", "Succeeded"]


def test_what_stands_on_the_hub_is_never_pushed_again() -> None:
    story = pushing()
    story.see(story.ended(pushed_outcome()))
    for _ in range(3):  # its Job is gone, and something else of the spec is changed
        story.change(scheduling={"ttlSecondsAfterFinished": 9000}, suspend=False)
        assert story.see(after=600).actions == ()
        assert story.phase() is Phase.SUCCEEDED


def test_another_secret_or_visibility_is_no_reason_to_push_again() -> None:
    story = pushing()
    story.see(story.ended(pushed_outcome()))
    story.change(push=PUSH | {"tokenSecret": {"name": "other", "key": "write"}, "private": False})
    assert story.see().actions == ()
    assert story.phase() is Phase.SUCCEEDED


def test_an_operator_that_was_down_meanwhile_takes_the_outcome_as_it_is() -> None:
    story = Story()
    story.see()
    story.see(story.ended(pushed_outcome()))
    assert story.phase() is Phase.SUCCEEDED
    assert story.events[-3:] == ["PushStarted", "Pushed", "Succeeded"]


def test_a_finished_run_is_pushed_when_a_place_is_named_afterwards() -> None:
    story = Story(push=None)
    story.see()
    story.change()
    assert story.see().actions == (StartPush(1),)
    assert story.phase() is Phase.PUSHING
    story.see(story.ended(pushed_outcome()))
    assert story.phase() is Phase.SUCCEEDED


def test_another_place_is_pushed_to_once_more() -> None:
    story = pushing()
    first = story.ended(pushed_outcome())
    story.see(first)
    story.change(push=PUSH | {"revision": "v2"})
    assert story.see(first).actions == (StopPush(1), StartPush(2))
    story.see(story.ended(pushed_outcome(), 2))
    assert story.phase() is Phase.SUCCEEDED
    assert "branch v2" in there(story.status.push).target


def test_a_finished_run_is_deleted_after_its_time_and_not_while_it_is_pushed() -> None:
    story = Story(scheduling={"ttlSecondsAfterFinished": 60})
    story.see()
    assert DeleteRun() not in story.see(story.seen(RUNNING), after=9000).actions
    story.see(story.ended(pushed_outcome()))
    assert story.see(after=60).actions == (DeleteRun(),)


# A push that fails


def test_a_refused_push_fails_the_run_with_a_remedy_and_keeps_what_was_made() -> None:
    story = pushing()
    decision = story.see(story.ended(REFUSED))
    assert decision.actions == ()
    assert decision.next_look_seconds is None
    assert story.phase() is Phase.FAILED
    failure = there(story.status.failure)
    assert failure.reason == "TokenRefused"
    assert "what it made is kept" in failure.message
    assert "any change of the spec repeats the push alone" in failure.message
    assert story.condition(ConditionType.PUSHED).reason == "TokenRefused"
    assert story.status.artifacts[0].path == "/output/huanhuan/adapter"
    assert story.status.final_loss == "1.2500"
    assert story.see(after=9000).actions == (), "it stays failed"


@pytest.mark.parametrize(
    "change",
    [
        {"push": PUSH | {"tokenSecret": {"name": "better", "key": "write"}}},
        {"push": PUSH | {"repository": "us/huanhuan"}},
        {"recovery": {"maxRestarts": 5}},
    ],
)
def test_any_change_of_the_spec_repeats_a_refused_push_and_nothing_else(change: dict[str, Any]) -> None:
    story = pushing()
    refused = story.ended(REFUSED)
    story.see(refused)
    story.change(**change)
    assert story.see(refused).actions == (StopPush(1), StartPush(2))
    assert story.phase() is Phase.PUSHING
    story.see(story.ended(pushed_outcome(), 2))
    assert story.phase() is Phase.SUCCEEDED
    assert story.status.failure is None


def test_suspending_and_resuming_repeats_a_refused_push() -> None:
    story = pushing()
    refused = story.ended(REFUSED)
    story.see(refused)
    story.change(suspend=True)
    assert story.see(refused).actions == ()
    assert story.phase() is Phase.SUSPENDED
    assert "only its push is left" in story.condition(ConditionType.SUSPENDED).message
    story.change()
    assert story.see(refused).actions == (StopPush(1), StartPush(2))


def test_on_a_laptop_the_same_command_repeats_a_refused_push() -> None:
    story = pushing()
    refused = story.ended(REFUSED)
    story.see(refused)
    story.status = reopened(story.status)
    assert story.see(refused).actions == (StopPush(1), StartPush(2))


def test_a_hub_that_does_not_answer_is_tried_again_later_and_later() -> None:
    story = pushing()
    pauses = []
    for number in (1, 2, 3):
        failed = story.ended(UNREACHABLE, number)
        decision = story.see(failed)
        assert (decision.actions, story.phase()) == ((), Phase.PUSHING)
        assert "tried again" in story.condition(ConditionType.PUSHED).message
        pause = 1
        while not (actions := story.see(failed, after=1).actions):
            pause += 1
        assert actions == (StopPush(number), StartPush(number + 1))
        pauses.append(pause)
        story.see(story.seen(RUNNING, number + 1))
    assert pauses == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    story.see(story.ended(UNREACHABLE, 4))
    assert story.phase() is Phase.FAILED
    assert there(story.status.failure).reason == "HubUnreachable"
    assert story.events.count("PushFailed") == 3


def test_the_pauses_have_an_end() -> None:
    story = Story(recovery={"maxRestarts": 9})
    story.see()
    for number in range(1, 8):
        story.see(story.ended(UNREACHABLE, number))
        decision = story.see(story.ended(UNREACHABLE, number), after=LONGEST_PAUSE_SECONDS)
        assert decision.actions == (StopPush(number), StartPush(number + 1))


def test_the_next_look_is_due_when_the_pause_is_over() -> None:
    story = pushing()
    failed = story.ended(UNREACHABLE)
    story.see(failed)
    assert story.see(failed, after=FIRST_PAUSE_SECONDS - 7).next_look_seconds == 7


def test_a_budget_that_was_used_up_is_fresh_for_another_request() -> None:
    story = Story(recovery={"maxRestarts": 0})
    story.see()
    story.see(story.ended(UNREACHABLE))
    assert story.phase() is Phase.FAILED
    story.change(push=PUSH | {"repository": "us/huanhuan"}, recovery={"maxRestarts": 1})
    story.see()
    story.see(story.ended(UNREACHABLE, 2))
    assert story.phase() is Phase.PUSHING


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({"exit_code": 143, "disruption": "EvictionByEvictionAPI"}, 0),
        ({"exit_code": 137}, 1),
        ({"exit_code": 1}, 1),
        ({"exit_code": None, "message": "Job has reached the specified backoff limit"}, 1),
    ],
)
def test_a_pod_that_dies_without_a_word_is_replaced(fields: dict[str, Any], counted: int) -> None:
    story = pushing()
    dead = story.seen(FAILED, **fields)
    story.see(dead)
    assert there(story.status.push).failures == counted
    assert story.see(dead, after=FIRST_PAUSE_SECONDS).actions == (StopPush(1), StartPush(2))


def test_a_pod_without_enough_memory_is_the_admins_affair() -> None:
    story = pushing()
    story.see(story.seen(FAILED, exit_code=137, reason="OOMKilled"))
    assert story.phase() is Phase.FAILED
    assert "prepareMemory" in there(story.status.failure).message


def test_a_push_that_was_deleted_by_hand_is_started_again() -> None:
    story = pushing()
    story.see()
    assert there(story.status.push).reason == "WorkersGone"
    assert story.see(after=FIRST_PAUSE_SECONDS).actions == (StartPush(2),)


def test_success_without_a_result_is_no_success() -> None:
    story = pushing()
    story.see(story.seen(SUCCEEDED, exit_code=0))
    assert story.phase() is Phase.PUSHING
    assert there(story.status.push).cause == "Unexpected"


# Changes in the middle


def test_suspending_ends_a_push_that_is_under_way_and_costs_nothing() -> None:
    story = pushing()
    story.change(suspend=True)
    assert story.see(story.seen(RUNNING)).actions == (StopPush(1),)
    assert story.phase() is Phase.PUSHING
    ending = story.seen(RUNNING, is_being_deleted=True)
    assert story.see(ending).actions == ()
    story.see()
    assert story.phase() is Phase.SUSPENDED
    assert (there(story.status.push).cause, there(story.status.push).failures) == ("Suspended", 0)
    story.change()
    assert story.see().actions == (StartPush(2),)
    assert story.events[-2:] == ["Suspended", "Resumed"]


def test_a_push_that_succeeds_while_it_is_stopped_has_succeeded() -> None:
    story = pushing()
    story.change(suspend=True)
    story.see(story.seen(RUNNING))
    story.see(story.ended(pushed_outcome()))
    assert story.phase() is Phase.SUCCEEDED


def test_a_run_that_is_suspended_as_it_ends_pushes_nothing() -> None:
    story = Story()
    story.change(suspend=True)
    assert story.see().actions == ()
    assert story.phase() is Phase.SUSPENDED


@pytest.mark.parametrize("change", [{"repository": "us/huanhuan"}, {"tokenSecret": {"name": "better", "key": "write"}}])
def test_a_push_that_was_told_something_else_is_replaced(change: dict[str, Any]) -> None:
    story = pushing()
    old = story.seen(WAITING)
    story.change(push=PUSH | change)
    assert story.see(old).actions == (StopPush(1),)
    assert story.see(dataclasses.replace(old, is_being_deleted=True)).actions == ()
    assert story.see().actions == (StartPush(2),)
    assert there(story.status.push).failures == 0


def test_a_refusal_of_what_is_no_longer_asked_for_ends_nothing() -> None:
    story = pushing()
    refused = story.ended(REFUSED)
    story.change(push=PUSH | {"tokenSecret": {"name": "better", "key": "write"}})
    assert story.see(refused).actions == (StopPush(1), StartPush(2))
    assert story.phase() is Phase.PUSHING


def test_a_push_that_is_not_wanted_any_more_is_ended_and_then_the_run_has_succeeded() -> None:
    story = pushing()
    running = story.seen(RUNNING)
    story.change(push=None)
    assert story.see(running).actions == (StopPush(1),)
    assert story.status.completion_time is None
    story.see()
    assert story.phase() is Phase.SUCCEEDED
    assert there(story.status.push).cause == "Suspended"


# What it waits for, and what is not allowed


def test_a_secret_that_is_not_there_is_told_with_its_field_and_command() -> None:
    story = pushing()
    said = 'secret "hub" not found'
    story.see(story.seen(WAITING, waiting_reason="CreateContainerConfigError", waiting_message=said))
    condition = story.condition(ConditionType.PUSHED)
    assert (condition.status, condition.reason) == ("Unknown", "SecretNotFound")
    assert "spec.output.push.tokenSecret" in condition.message, "spec.model.tokenSecret names the same Secret"
    assert "kubectl create secret generic hub --from-literal=write=..." in condition.message


def test_a_pod_that_may_not_be_made_is_told() -> None:
    story = pushing()
    story.see(story.seen(WAITING, waiting_message="pods is forbidden: exceeded quota: pods"))
    condition = story.condition(ConditionType.PUSHED)
    assert (condition.status, condition.reason) == ("Unknown", "QuotaExceeded")
    assert condition.message == "pods is forbidden: exceeded quota: pods"


def test_a_hub_that_the_admin_forbids_is_not_pushed_to_and_what_was_made_stays() -> None:
    story = Story()
    story.settings = Settings(limits=Limits(push_hubs=("ModelScope",)))
    assert story.see().actions == ()
    assert story.phase() is Phase.FAILED
    failure = there(story.status.failure)
    assert failure.reason == "LimitExceeded"
    assert "spec.output.push.hub: HuggingFace is not allowed here; allowed: ModelScope" in failure.message
    assert story.status.artifacts
    story.change(push=PUSH | {"hub": "ModelScope"})
    assert story.see().actions == (StartPush(1),)


def test_what_was_pushed_before_is_remembered_through_a_refusal() -> None:
    story = pushing()
    story.see(story.ended(pushed_outcome()))
    story.settings = Settings(limits=Limits(push_hubs=("HuggingFace",)))
    story.change(push=PUSH | {"hub": "ModelScope"})
    story.see()
    assert story.phase() is Phase.FAILED
    story.change()
    assert story.see().actions == (), "it stands there already"
    assert story.phase() is Phase.SUCCEEDED
