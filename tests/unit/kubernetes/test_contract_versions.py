"""Operator and trainer image of different releases: both say so, with both versions and where to set them."""

import json

import pytest
from pydantic import ValidationError

from finetune_contract import CONTRACT_VERSION, ContractMismatchError, Outcome, mismatch, read_message
from finetune_operator.backends.kubernetes import observe, pods
from finetune_operator.failures import Cause, classify, classify_preparation
from support import kube_objects as objects
from support.runs import done_outcome

NEWER = json.dumps(json.loads(done_outcome().to_message()) | {"version": CONTRACT_VERSION + 1, "novelty": 1})


def test_a_message_of_another_version_is_refused_with_both() -> None:
    with pytest.raises(ContractMismatchError) as refused:
        read_message(Outcome, NEWER)
    for word in ("version 2", "version 1", "trainer.image"):
        assert word in str(refused.value)


def test_a_message_of_our_version_that_is_wrong_is_told_by_its_field() -> None:
    wrong = json.dumps(json.loads(done_outcome().to_message()) | {"novelty": 1})
    with pytest.raises(ContractMismatchError, match="novelty") as refused:
        read_message(Outcome, wrong)
    assert not isinstance(refused.value, ValidationError)


@pytest.mark.parametrize("text", ["", "Killed", "[]", "null", "1", '{"version": 1}', '{"exit_code": 0}'])
def test_what_is_no_message_or_ours_is_no_mismatch(text: str) -> None:
    assert mismatch(text) is None


@pytest.mark.parametrize("code", [0, 64])
def test_an_attempt_of_another_image_ends_with_both_versions_in_its_message(code: int) -> None:
    pod = objects.pod(phase="Failed" if code else "Succeeded", container=objects.terminated(code, NEWER))
    assert pods.worker(pod).outcome is None
    [attempt] = observe.attempts([objects.job()], [pod], {}, {})
    ending = classify(attempt)
    assert ending.cause in (Cause.USER_ERROR, Cause.UNEXPECTED)
    assert "contract version 2, and this one version 1" in ending.message


def test_so_does_a_preparation() -> None:
    pod = objects.pod("p", attempt=None, phase="Failed", container=objects.terminated(1, NEWER))
    found = observe.preparation([objects.job(None)], [pod], {})
    assert found is not None
    ending = classify_preparation(found)
    assert ending.cause is Cause.UNEXPECTED
    assert "contract version 2, and this one version 1" in ending.message
