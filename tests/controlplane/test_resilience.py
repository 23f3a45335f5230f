"""The operator's process: killed, cut off, doubled, and with as few rights as the chart can give it."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from finetune_contract import ExitCode
from finetune_operator.backends.kubernetes.kinds import JOBS
from harness import ControlPlane
from support import runs, stories
from support.control import Control
from support.operator_process import OperatorProcess
from support.rank0 import Rank0
from support.stormy import StormyRoad

ROOT = Path(__file__).parents[2]
SYSTEM = "finetune-system"

ELECTION: dict[str, object] = {
    "namespace": SYSTEM, "name": "kit-qwen3-finetune", "renewSeconds": 3, "retrySeconds": 1
}  # fmt: skip

Start = Callable[..., OperatorProcess]


@pytest.fixture
def team(control: Control) -> str:
    """A namespace that the shared operator does not look after."""
    return control.namespace()


@pytest.fixture
def start(tmp_path: Path, operator_kubeconfig: Path) -> Iterator[Start]:
    """Starts operators of the test's own; they end with it."""
    started: list[OperatorProcess] = []

    def make(
        *namespaces: str, kubeconfig: Path = operator_kubeconfig, lease_seconds: int | None = None
    ) -> OperatorProcess:
        settings: dict[str, object] = (
            {} if lease_seconds is None else {"leaderElection": ELECTION | {"leaseSeconds": lease_seconds}}
        )
        process = OperatorProcess(tmp_path / str(len(started)), kubeconfig, namespaces, settings)
        started.append(process)
        process.start()
        return process

    yield make
    for process in started:
        print(process.log())
        if process.is_alive():
            assert process.terminate() == 0


def test_a_killed_operator_comes_back_to_a_running_attempt(control: Control, start: Start, team: str) -> None:
    operator, rank0 = start(team), Rank0()
    control.do(rank0.start())
    name = stories.make_run(control, team)
    stories.prepare(control, team, name)
    rank0.progress = runs.progress(1, 10, at=stories.now())
    stories.start_workers(control, team, name, attempt=1, address=rank0.address)
    control.wait_phase(team, name, "Running")
    operator.kill()
    rank0.progress = runs.progress(1, 60, at=stories.now() + 60)
    operator.start()
    control.wait("step 60", lambda: control.status(team, name)["progress"]["step"] == 60)
    stories.end_workers(control, team, name, 1, runs.done_outcome())
    status = control.wait_phase(team, name, "Succeeded")
    control.do(rank0.stop())
    assert [attempt["cause"] for attempt in status["attempts"]] == ["Done"]
    assert max(_jobs_made(control, team).values()) == 1


def test_what_ends_while_the_operator_is_down_is_found_when_it_is_back(
    control: Control, start: Start, team: str
) -> None:
    operator = start(team)
    name = stories.make_run(control, team)
    stories.prepare(control, team, name)
    stories.start_workers(control, team, name, attempt=1)
    stories.wait_running(control, team, name)
    operator.kill()
    stories.end_workers(control, team, name, 1, runs.done_outcome())
    operator.start()
    control.wait_phase(team, name, "Succeeded")


def test_a_storm_of_refusals_is_outlived_and_slow_answers_are_after_it(
    control: Control, start: Start, team: str, tmp_path: Path, operator_kubeconfig: Path
) -> None:
    with StormyRoad(tmp_path / "road", operator_kubeconfig) as road:
        operator = start(team, kubeconfig=road.kubeconfig)
        name = stories.make_run(control, team)
        stories.prepare(control, team, name)
        stories.worker_pods(control, team, name, attempt=1)
        road.storm(503, 429, 409, 422)
        stories.start_workers(control, team, name, attempt=1)
        stories.end_workers(control, team, name, 1, runs.done_outcome())
        other = stories.make_run(control, team, "later")
        control.wait("the storm is felt", lambda: road.refused > 10, timeout=60)
        assert operator.is_alive()
        road.calm(delay_seconds=0.3)
        control.wait_phase(team, name, "Succeeded", timeout=60)
        stories.preparation_pod(control, team, other)


def test_a_restart_of_the_api_server_is_outlived(control: Control, start: Start, team: str) -> None:
    operator = start(team)
    name = stories.make_run(control, team)
    stories.prepare(control, team, name)
    with control.plane.without_api_server():
        assert operator.is_alive()
    stories.start_workers(control, team, name, attempt=1)
    stories.end_workers(control, team, name, 1, runs.done_outcome())
    control.wait_phase(team, name, "Succeeded", timeout=60)
    assert operator.is_alive()


def test_a_restart_of_etcd_is_outlived(control: Control, start: Start, team: str) -> None:
    operator = start(team)
    name = stories.make_run(control, team)
    stories.prepare(control, team, name)
    with control.plane.crashed("etcd"):
        assert operator.is_alive()
    stories.start_workers(control, team, name, attempt=1)
    stories.end_workers(control, team, name, 1, runs.done_outcome())
    control.wait_phase(team, name, "Succeeded", timeout=60)
    assert operator.is_alive()


def test_two_operators_at_once_do_no_harm(control: Control, start: Start, team: str) -> None:
    start(team)
    start(team)
    names = [stories.make_run(control, team, f"run-{number}") for number in range(4)]
    for name in names:
        stories.prepare(control, team, name)
    for name in names:
        stories.start_workers(control, team, name, attempt=1)
    for name in names:
        stories.end_workers(control, team, name, 1, runs.done_outcome())
    for name in names:
        status = control.wait_phase(team, name, "Succeeded")
        assert [attempt["cause"] for attempt in status["attempts"]] == ["Done"]
    assert max(_jobs_made(control, team).values()) == 1


def test_when_the_leader_is_killed_the_other_acts_as_soon_as_the_lease_has_run_out(
    control: Control, start: Start, team: str
) -> None:
    leader, standby = _leader_and_standby(control, start, team, lease_seconds=5)
    name = stories.make_run(control, team)
    stories.prepare(control, team, name)
    stories.start_workers(control, team, name, attempt=1)
    stories.wait_running(control, team, name)
    leader.kill()
    stories.end_workers(control, team, name, 1, runs.done_outcome())
    control.wait_phase(team, name, "Succeeded", timeout=15)
    assert standby.metrics()["qwen3_finetune_leader"] == 1
    assert max(_jobs_made(control, team).values()) == 1


def test_a_leader_that_is_told_to_go_hands_over_at_once(control: Control, start: Start, team: str) -> None:
    leader, standby = _leader_and_standby(control, start, team, lease_seconds=60)
    assert leader.terminate() == 0
    control.wait("the other leads", lambda: standby.metrics()["qwen3_finetune_leader"] == 1, timeout=5)
    name = stories.make_run(control, team)
    stories.preparation_pod(control, team, name)


def test_a_leader_that_is_cut_off_ends_before_the_other_acts(
    control: Control, start: Start, team: str, tmp_path: Path, operator_kubeconfig: Path
) -> None:
    with StormyRoad(tmp_path / "road", operator_kubeconfig) as road:
        leader, standby = _leader_and_standby(control, start, team, lease_seconds=5, kubeconfig=road.kubeconfig)
        road.storm()
        control.wait("the leader ends", lambda: not leader.is_alive(), timeout=10)
        assert standby.metrics()["qwen3_finetune_leader"] == 0, "the Lease has not run out yet"
        assert "the Lease is lost" in leader.log()
        control.wait("the other leads", lambda: standby.metrics()["qwen3_finetune_leader"] == 1, timeout=10)


def test_the_rights_in_the_whole_cluster_suffice(control: Control, start: Start, team: str) -> None:
    operator = start()
    name = stories.make_run(control, team, resources={})
    stories.prepare(control, team, name)
    stories.start_workers(control, team, name, attempt=1)
    stories.end_workers(control, team, name, 1, runs.done_outcome())
    control.wait_phase(team, name, "Succeeded")
    assert "forbidden" not in operator.log().lower()


def test_the_rights_in_one_namespace_suffice(control: Control, start: Start, team: str) -> None:
    operator = start(team, kubeconfig=_narrow_kubeconfig(control.plane, team))
    name = stories.make_run(control, team)
    stories.prepare(control, team, name)
    stories.start_workers(control, team, name, attempt=1)
    stories.end_workers(control, team, name, 1, runs.failed_outcome(ExitCode.INFRASTRUCTURE))
    control.do(control.kubelet.reap(team))
    stories.start_workers(control, team, name, attempt=2)
    stories.end_workers(control, team, name, 2, runs.done_outcome())
    control.wait_phase(team, name, "Succeeded")
    refused = [line for line in operator.log().lower().splitlines() if "forbidden" in line]
    assert all("nodes" in line for line in refused), "nodes are no namespace's, and it does without them"


def _leader_and_standby(
    control: Control, start: Start, team: str, lease_seconds: int, **of_leader: Path
) -> tuple[OperatorProcess, OperatorProcess]:
    leader = start(team, lease_seconds=lease_seconds, **of_leader)
    control.wait("one leads", lambda: leader.metrics()["qwen3_finetune_leader"] == 1, timeout=70)
    standby = start(team, lease_seconds=lease_seconds)
    assert standby.metrics()["qwen3_finetune_leader"] == 0, "it is well, and stands by"
    control.wait("the leader is ready", leader.is_well)
    return leader, standby


def _narrow_kubeconfig(plane: ControlPlane, team: str) -> Path:
    """Of an operator that is installed for one namespace."""
    settings = ("--set", f"watchNamespaces={{{team}}}", "--set", "crds.enabled=false", "--namespace", SYSTEM)
    rendered = plane.helm("template", "narrow", ROOT / "charts" / "qwen3-finetune", *settings)
    objects = [each for each in yaml.safe_load_all(rendered) if each]
    plane.kubectl.apply([each for each in objects if each["kind"] in ("Role", "RoleBinding", "ServiceAccount")])
    account = next(each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount")
    return plane.service_account_kubeconfig(SYSTEM, account)


def _jobs_made(control: Control, namespace: str) -> Counter[str]:
    writes = [each for each in control.operator_writes() if each.namespace == namespace and each.code == 201]
    return Counter(each.name for each in writes if each.resource == JOBS.plural)
