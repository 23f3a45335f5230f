"""What is pushed and where, and what is refused before anything is asked of a GPU."""

from typing import Any

import pytest

from finetune_contract import HubKind
from finetune_operator.planning import PlanError, check_push, push_config, push_request, push_target
from finetune_operator.resource import InvalidResourceError, Push, Qwen3FineTune
from finetune_operator.settings import Limits, Settings
from support.runs import there
from unit.manifests.objects import artifacts
from unit.planning.runs import run

PUSH: dict[str, Any] = {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}
MERGED: dict[str, Any] = {"mergeAdapter": True}


def wanted(output: dict[str, Any] | None = None, **push: Any) -> Qwen3FineTune:
    return run(output=(output or {}) | {"push": PUSH | push})


def push_of(output: dict[str, Any] | None = None, **push: Any) -> Push:
    return there(wanted(output, **push).spec.output.push)


@pytest.mark.parametrize(
    ("what", "kinds"),
    [
        ({}, ["Adapter"]),
        ({"what": "Adapter"}, ["Adapter"]),
        ({"what": "Merged"}, ["MergedModel"]),
        ({"what": "Both"}, ["Adapter", "MergedModel"]),
    ],
)
def test_what_is_pushed_is_what_was_asked_for(what: dict[str, str], kinds: list[str]) -> None:
    asked = wanted(MERGED, **what)
    assert [each.kind for each in push_config(asked, artifacts(asked)).artifacts] == kinds


def test_a_whole_model_is_pushed_whole() -> None:
    asked = run(method={"type": "Full"}, output={"push": PUSH})
    config = push_config(asked, artifacts(asked))
    assert [(each.kind, each.path) for each in config.artifacts] == [("Model", "/output/example/model")]


@pytest.mark.parametrize(("hub", "branch"), [("HuggingFace", "main"), ("ModelScope", "master")])
def test_the_branch_is_the_hubs_own_unless_named(hub: str, branch: str) -> None:
    asked = wanted(hub=hub)
    target = push_config(asked, artifacts(asked)).target
    assert (target.hub, target.revision, target.private) == (HubKind(hub), branch, True)
    named = wanted(hub=hub, revision="v2", private=False)
    target = push_config(named, artifacts(named)).target
    assert (target.revision, target.private) == ("v2", False)


def test_what_is_told_holds_no_token_and_names_no_secret() -> None:
    asked = wanted(tokenSecret={"name": "the-secret", "key": "the-key"})
    text = push_config(asked, artifacts(asked)).model_dump_json()
    assert "the-secret" not in text
    assert "the-key" not in text


@pytest.mark.parametrize(
    ("change", "is_another_target"),
    [
        ({"repository": "me/other"}, True),
        ({"hub": "ModelScope"}, True),
        ({"revision": "v2"}, True),
        ({"what": "Both"}, True),
        ({"what": "Adapter", "revision": "main"}, False),
        ({"private": False}, False),
        ({"tokenSecret": {"name": "other", "key": "write"}}, False),
    ],
)
def test_only_another_place_or_content_is_another_target(change: dict[str, Any], is_another_target: bool) -> None:
    old, new = wanted(MERGED), wanted(MERGED, **change)
    assert (push_target(old, push_of(MERGED)) != push_target(new, push_of(MERGED, **change))) is is_another_target
    assert push_request(push_of(MERGED)) != push_request(push_of(MERGED, **change))


@pytest.mark.parametrize(
    ("push", "said"),
    [
        ({"repository": "huanhuan"}, "spec.output.push.repository: must be owner/name as the hub shows it"),
        ({"repository": "me/../you"}, "spec.output.push.repository: must be owner/name"),
        ({"repository": "me/huan--huan"}, "repository is me/huan--huan, and a name on HuggingFace"),
        ({"repository": "me/huanhuan.git"}, "repository is me/huanhuan.git, and a name on HuggingFace"),
        ({"repository": "me-/huanhuan"}, "repository is me-/huanhuan, and a name on HuggingFace"),
        ({"repository": "me/huan..huan"}, "repository is me/huan..huan, and a name on HuggingFace"),
        ({"tokenSecret": None}, "spec.output.push.tokenSecret"),
        ({"hub": "GitHub"}, "spec.output.push.hub"),
        ({"token": "hf_abc"}, "spec.output.push.token"),
        ({"what": "Merged"}, "push.what is Merged, and there is no merged model; set mergeAdapter: true"),
        ({"what": "Both"}, "push.what is Both, and there is no merged model"),
    ],
)
def test_a_push_that_cannot_work_is_refused_at_once(push: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidResourceError) as refused:
        wanted(**push)
    assert said in str(refused.value)


def test_a_push_without_a_secret_is_refused() -> None:
    with pytest.raises(InvalidResourceError, match=r"spec\.output\.push\.tokenSecret"):
        run(output={"push": {"repository": "me/huanhuan"}})


def test_a_whole_model_leaves_nothing_to_choose() -> None:
    with pytest.raises(InvalidResourceError, match=r"output\.push\.what: Adapter chooses between adapter and merged"):
        run(method={"type": "Full"}, output={"push": PUSH | {"what": "Adapter"}})


def test_modelscope_has_names_of_its_own() -> None:
    assert push_of(hub="ModelScope", repository="me/huan--huan").repository == "me/huan--huan"


def test_a_hub_that_the_admin_does_not_allow_is_refused() -> None:
    check_push(wanted(), Settings())
    check_push(run(), Settings(limits=Limits(push_hubs=())))
    with pytest.raises(PlanError, match=r"push\.hub: HuggingFace is not allowed here; allowed: ModelScope") as refused:
        check_push(wanted(), Settings(limits=Limits(push_hubs=("ModelScope",))))
    assert refused.value.reason == "LimitExceeded"
    with pytest.raises(PlanError, match="allowed: none"):
        check_push(wanted(), Settings(limits=Limits(push_hubs=())))
