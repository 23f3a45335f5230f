"""Runs that an earlier release began, as it wrote them: the present one goes on with them as if they were its own."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_contract import RunConfig
from finetune_operator.backends.kubernetes import observe, pods
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.lifecycle import StartAttempt, decide_pass, known_facts
from finetune_operator.lifecycle.decision import Decision
from finetune_operator.observation import Observation
from finetune_operator.planning import make_plan
from finetune_operator.resource import parse_resource
from finetune_operator.settings import Settings
from finetune_operator.status import Phase, Status, read_status
from support.runs import done_outcome, preempted_outcome, progress, there

FILES = Path(__file__).parent / "earlier_release"
"""The resource with its status, then its children, as release 0.1.0 made them before attempts had a cost."""
NOW = 1_700_000_160.0


def stored(name: str) -> tuple[Object, list[Object]]:
    body, *children = yaml.safe_load_all((FILES / f"{name}.yaml").read_text())
    return body, children


def seen(children: list[Object], now: float, step: int | None = 41) -> Observation:
    """What the present release makes of the children that the earlier one made."""
    jobs = [each for each in children if each["kind"] == "Job"]
    found = [each for each in children if each["kind"] == "Pod"]
    told = {} if step is None else {1: observe.SeenProgress(progress(1, step, at=now), now)}
    return Observation(
        preparation=observe.preparation(jobs, found, {}),
        attempts=observe.attempts(jobs, found, {}, told),
        output_claim="huanhuan-output",
    )


def decided(body: Object, observation: Observation, now: float) -> Decision:
    run, (status, unreadable) = parse_resource(body), read_status(body["status"])
    assert unreadable == ()
    model, dataset = known_facts(status, observation.preparation)
    plan = make_plan(run, model=model, dataset=dataset, gpu_memory_bytes=None)
    return decide_pass(run, status, observation, lambda _: plan, Settings(), now)


def with_ended_pods(children: list[Object], message: str, code: int) -> list[Object]:
    ended: dict[str, Any] = {"terminated": {"exitCode": code, "message": message, "reason": "Error"}}
    status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"name": "trainer", "state": ended}]}
    conditions = {"conditions": [{"type": "Failed" if code else "Complete", "status": "True"}]}
    status_of = {"Pod": status, "Job": conditions}
    return [each | {"status": status_of.get(each["kind"], {})} for each in children]


def test_a_running_attempt_runs_on() -> None:
    body, children = stored("running")
    before = Status.model_validate(body["status"])
    decision = decided(body, seen(children, NOW), NOW)
    after = decision.status
    assert (before.phase, after.phase) == (Phase.RUNNING, Phase.RUNNING)
    assert decision.actions == ()
    assert (there(after.progress).step, after.restarts) == (41, 0)
    assert [(each.number, each.started_at) for each in after.attempts] == [
        (each.number, each.started_at) for each in before.attempts
    ]
    assert (after.plan, after.dataset, after.checkpoint) == (before.plan, before.dataset, before.checkpoint)
    assert decision.events == ()


def test_an_attempt_that_was_running_ends_well() -> None:
    body, children = stored("running")
    ended = with_ended_pods(children, done_outcome().to_message(), 0)
    assert decided(body, seen(ended, NOW, None), NOW).status.phase is Phase.SUCCEEDED


def test_an_attempt_that_saved_and_left_is_followed_by_the_next_from_its_checkpoint() -> None:
    body, children = stored("running")
    ended = with_ended_pods(children, preempted_outcome(50).to_message(), 75)
    decision = decided(body, seen(ended, NOW, None), NOW)
    assert decision.actions == (StartAttempt(2),)
    assert (there(decision.status.checkpoint).step, decision.status.failures) == (50, 0)


def test_a_finished_run_costs_no_write() -> None:
    body, _ = stored("succeeded")
    decision = decided(body, Observation(), NOW + 86_400)
    assert (decision.status, decision.actions, decision.events) == (Status.model_validate(body["status"]), (), ())
    assert decision.status.phase is Phase.SUCCEEDED


def test_what_the_earlier_release_told_its_pods_can_still_be_read() -> None:
    """A node that comes back may start such a pod again."""
    _, children = stored("running")
    [config] = [each for each in children if each["kind"] == "ConfigMap" and "run.json" in each["data"]]
    assert RunConfig.model_validate_json(config["data"]["run.json"]).attempt == 1


@pytest.mark.parametrize("kind", ["Job", "Service", "ConfigMap", "PersistentVolumeClaim"])
def test_its_children_are_known_by_their_names_and_labels(kind: str) -> None:
    _, children = stored("running")
    found = [each for each in children if each["kind"] == kind]
    assert found
    owned = [each for each in found if "ownerReferences" in each["metadata"]]
    assert all(observe.is_owned_by(each, "7c2f") for each in owned)
    assert all(pods.attempt_number(each) in (None, 1) for each in found)
