"""One real control plane for every test of this folder, and the operator's own rights on it, as the chart grants them."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from finetune_operator.backends.kubernetes.client import Api
from harness import ControlPlane, cache
from support.control import Control
from support.operator_process import OperatorProcess

ROOT = Path(__file__).parents[2]
SYSTEM = "finetune-system"
_RIGHTS = frozenset({"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"})


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, API server, controller manager and scheduler."""
    with _own_name() as name, ControlPlane(name) as plane:
        yield plane


@pytest.fixture(scope="session")
def operator_kubeconfig(control_plane: ControlPlane) -> Path:
    """The chart's CRD, roles and ServiceAccount are there; acts as that account, with exactly its rights."""
    rendered = control_plane.helm("template", "kit", ROOT / "charts" / "qwen3-finetune", "--namespace", SYSTEM)
    objects = [each for each in yaml.safe_load_all(rendered) if each and each["kind"] in _RIGHTS]
    control_plane.kubectl("create", "namespace", SYSTEM)
    control_plane.kubectl.apply(objects)
    control_plane.kubectl("wait", "--for=condition=Established", "crd/qwen3finetunes.finetune.qwen3.io")
    account = next(each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount")
    return control_plane.service_account_kubeconfig(SYSTEM, account)


@pytest.fixture(scope="session")
def control(control_plane: ControlPlane, operator_kubeconfig: Path) -> Iterator[Control]:
    """The control plane with the CRD, as an admin's client sees it."""
    with asyncio.Runner() as runner:
        api = runner.run(connected(control_plane.kubeconfig))
        control = Control(control_plane, runner, api)
        control.do(control.kubelet.make_node())
        yield control
        runner.run(api.close())


@pytest.fixture
def namespace(control: Control) -> str:
    """A namespace of the test's own."""
    return control.namespace()


@pytest.fixture
def operator(tmp_path: Path, operator_kubeconfig: Path, namespace: str) -> Iterator[OperatorProcess]:
    """An operator for the test's namespace, with the rights that the chart gives it and not one more."""
    with OperatorProcess(tmp_path, operator_kubeconfig, [namespace]) as process:
        yield process
        print(process.log())  # pytest shows it with a failure
        assert "forbidden" not in process.log().lower()


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
