"""One real control plane for every test of this folder, and on it the operator's rights as the chart grants them."""

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from finetune_operator.backends.kubernetes.client import Api
from harness import ControlPlane, cache
from support import kueue
from support.control import Control
from support.operator_process import OperatorProcess

ROOT = Path(__file__).parents[2]
SYSTEM = "finetune-system"
_RIGHTS = frozenset(
    {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount"}
)
_GANGS = {"kueue": {"enabled": True}, "coscheduling": {"enabled": True}}
_SETTINGS: dict[str, object] = {"gangs": _GANGS, "limits": {"queues": ["research"]}}


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, API server, controller manager and scheduler."""
    with _own_name() as name, ControlPlane(name) as plane:
        yield plane


@pytest.fixture(scope="session")
def operator_account(control_plane: ControlPlane) -> str:
    """The chart's CRD, roles and ServiceAccount are there; the name of that account."""
    gangs = ["--set-json", f"gangs={json.dumps(_GANGS)}"]
    chart = ROOT / "charts" / "qwen3-finetune"
    rendered = control_plane.helm("template", "kit", chart, "--namespace", SYSTEM, "--set", "replicas=2", *gangs)
    objects = [each for each in yaml.safe_load_all(rendered) if each and each["kind"] in _RIGHTS]
    control_plane.kubectl("create", "namespace", SYSTEM)
    control_plane.kubectl.apply([*objects, *kueue.definitions()])
    control_plane.kubectl("wait", "--for=condition=Established", "crd/qwen3finetunes.finetune.qwen3.io")
    name: str = next(each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount")
    return name


@pytest.fixture(scope="session")
def operator_kubeconfig(control_plane: ControlPlane, operator_account: str) -> Path:
    """Acts as the operator's account, with exactly the rights that the chart gives it."""
    return control_plane.service_account_kubeconfig(SYSTEM, operator_account)


@pytest.fixture(scope="session")
def control(control_plane: ControlPlane, operator_account: str) -> Iterator[Control]:
    """The control plane with the CRD, as an admin's client sees it."""
    with asyncio.Runner() as runner:
        api = runner.run(connected(control_plane.kubeconfig))
        control = Control(control_plane, runner, api, f"system:serviceaccount:{SYSTEM}:{operator_account}")
        control.do(control.kubelet.make_node())
        control_plane.kubectl.apply(_volume(number) for number in range(100))
        control_plane.kubectl("wait", "--for=jsonpath={.status.phase}=Available", "persistentvolume", "--all")
        yield control
        runner.run(api.close())


@pytest.fixture(scope="session")
def shared_operator(
    request: pytest.FixtureRequest,
    control: Control,
    operator_kubeconfig: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[OperatorProcess, list[str]]]:
    """One operator for most tests, and a namespace for each of them: a process takes seconds to start."""
    tests = [item for item in request.session.items if "namespace" in getattr(item, "fixturenames", ())]
    namespaces = [control.namespace() for _ in tests]
    folder = tmp_path_factory.mktemp("operator")
    with OperatorProcess(folder, operator_kubeconfig, namespaces, _SETTINGS) as process:
        yield process, namespaces
        assert process.terminate() == 0, process.log()


@pytest.fixture
def operator(shared_operator: tuple[OperatorProcess, list[str]]) -> Iterator[OperatorProcess]:
    """The shared operator; it may do all that the test makes it do, and what it logs is shown with a failure."""
    process, before = shared_operator[0], len(shared_operator[0].log())
    yield process
    said = process.log()[before:]
    print(said)
    assert "forbidden" not in said.lower()


@pytest.fixture
def namespace(shared_operator: tuple[OperatorProcess, list[str]]) -> str:
    """A namespace of the test's own that the shared operator looks after."""
    return shared_operator[1].pop()


def _volume(number: int) -> dict[str, object]:
    """A volume that any claim without a storage class gets at once."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"volume-{number}"},
        "spec": {
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "hostPath": {"path": "/nowhere"},
        },
    }


async def connected(kubeconfig: Path) -> Api:
    """A client of its own."""
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(kubeconfig)
    try:
        return await Api.connect()
    finally:
        os.environ.pop("KUBECONFIG")
        if before is not None:
            os.environ["KUBECONFIG"] = before


@contextmanager
def _own_name() -> Iterator[str]:
    """A name of the harness that no other test session uses now; one that was killed is cleaned up under its name."""
    for number in range(1, 100):
        name = f"controlplane-{number}"
        with (cache.home() / "locks" / f"{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield name
            return
    raise AssertionError("a hundred test sessions at once")
