"""What must hold for every run: names, labels, determinism, and schemas."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.names import ATTEMPT_LABEL, ROLE_LABEL, RUN_LABEL
from finetune_operator.resource import MAX_NAME_LENGTH
from unit.manifests.objects import made
from unit.planning.runs import EXAMPLES, example, run

NAMES = st.from_regex(rf"\A[a-z]([-a-z0-9]{{0,{MAX_NAME_LENGTH - 2}}}[a-z0-9])?\Z")
ATTEMPTS = st.integers(1, 999)


@given(name=NAMES, attempt=ATTEMPTS)
def test_any_legal_name_gives_names_that_kubernetes_takes(name: str, attempt: int) -> None:
    for each in made(run(name), attempt=attempt).objects:
        assert len(each["metadata"]["name"]) <= 63
        template = each["spec"]["template"]["metadata"]["labels"] if each["kind"] == "Job" else {}
        assert all(len(value) <= 63 for value in (*each["metadata"]["labels"].values(), *template.values()))
    host = f"{name}-r{attempt}-1023"
    assert len(host) <= 63, "the host name of the last pod of the largest run"


@given(name=NAMES, attempt=ATTEMPTS)
def test_the_service_selects_the_workers_and_nobody_else(name: str, attempt: int) -> None:
    everything = made(run(name), attempt=attempt)
    (service,) = everything.of_kind("Service")
    preparation, workers = (job["spec"]["template"]["metadata"]["labels"] for job in everything.of_kind("Job"))
    selector = service["spec"]["selector"].items()
    assert selector <= workers.items()
    assert not selector <= preparation.items()


@given(name=NAMES, attempt=ATTEMPTS)
def test_everything_is_labelled_with_its_run(name: str, attempt: int) -> None:
    everything = made(run(name), attempt=attempt)
    assert all(each["metadata"]["labels"][RUN_LABEL] == name for each in everything.objects)
    job = everything.attempt[-1]
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert (labels[ATTEMPT_LABEL], labels[ROLE_LABEL]) == (str(attempt), "worker")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_objects_are_equal_every_time_and_never_shared(path: Any) -> None:
    wanted = example(path)
    first, second = made(wanted), made(wanted)
    kept = deepcopy(second.objects)
    assert first.objects == second.objects
    for each in first.objects:
        spoil(each)
    assert second.objects == kept
    assert made(wanted).objects == kept


def test_another_attempt_gets_another_configuration() -> None:
    first, second = made(run(), attempt=1), made(run(), attempt=2)
    names = {each.attempt[1]["metadata"]["name"] for each in (first, second)}
    assert len(names) == 2
    for each in (first, second):
        mounted = {volume["name"]: volume for volume in each.worker_pod["volumes"]}["config"]["configMap"]["name"]
        assert mounted == each.attempt[1]["metadata"]["name"]
        assert each.attempt[1]["immutable"] is True


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_objects_meet_kubernetes_own_schemas(path: Any) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for each in made(example(path)).objects:
        kubernetes_validate.validate(each, "1.35", strict=True)


def spoil(value: Any) -> None:
    """Change everything in `value`, all the way down."""
    if isinstance(value, dict):
        for each in value.values():
            spoil(each)
        value["spoiled"] = True
    elif isinstance(value, list):
        for each in value:
            spoil(each)
        value.append("spoiled")
