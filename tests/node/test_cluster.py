"""The harness keeps its promises: a node that really runs pods, and nothing left when it ends, however it ended.

These tests start, kill and end a cluster of their own. There is one node per machine, so they must be over before the
session's `kit` is first asked for: the name of this file sorts before those of its users.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import harness
from harness import PAUSE_IMAGE, Cluster, ControlPlane, HarnessError, Kubectl, Node, cache, dockerfile, requirements

if requirements.missing():
    pytest.skip("; ".join(requirements.missing()), allow_module_level=True)

SMOKE = Path(harness.__file__).parent / "smoke.yaml"
NAME = "harness-test"


def machine() -> dict[str, set[str]]:
    """What a node adds to a machine, as far as it can be seen from outside."""
    state = str(cache.home() / "state" / NAME)
    processes = [Path("/proc", pid, "cmdline") for pid in os.listdir("/proc") if pid.isdigit()]
    return {
        "processes": {command for file in processes if state in (command := _read(file))},
        "mounts": {line for line in _read(Path("/proc/mounts")).splitlines() if str(cache.home()) in line},
        "devices": {path.name for path in Path("/sys/class/net").iterdir()},
        "addresses": set(re.findall(r"inet (\S+)", _output("ip", "-4", "address"))),
        "rules": {line for line in _output("iptables-save").splitlines() if re.search(r"KUBE-|CNI-", line)},
        "rules6": {line for line in _output("ip6tables-save").splitlines() if re.search(r"KUBE-|CNI-", line)},
        "cgroups": {str(path) for path in Path("/sys/fs/cgroup").glob("**/kubepods")},
        "folders": {folder for folder in ("/var/lib/kubelet", "/var/lib/cni") if Path(folder).exists()},
        "settings": {f"{name}={_read(Path('/proc/sys', name))}" for name in ("net/ipv4/ip_forward", "kernel/panic")},
    }


@pytest.fixture(scope="module")
def before() -> dict[str, set[str]]:
    """The machine as it was before the cluster."""
    requirements.install(requirements.NODE_PACKAGES)
    Cluster(NAME).stop()
    return machine()


@pytest.fixture(scope="module")
def cluster(before: dict[str, set[str]]) -> Iterator[Cluster]:
    with Cluster(NAME, gpus=4) as running:
        yield running


def test_two_ranks_meet_in_a_restricted_namespace(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(SMOKE))
    cluster.kubectl.wait("-n", "smoke", "job/ranks", "--for=condition=Complete", timeout=60)
    said = cluster.kubectl("-n", "smoke", "logs", "-l", "job-name=ranks", "--tail=-1")
    assert "rank 0 has met its peer" in said
    assert "rank 1 has met its peer" in said


def test_a_pod_that_asks_for_more_gpus_than_there_are_waits(cluster: Cluster) -> None:
    cluster.kubectl.apply(_pod("greedy", "true", resources={"limits": {"nvidia.com/gpu": 5}}))
    condition = "--for=jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}=Unschedulable"
    cluster.kubectl.wait("pod/greedy", condition, timeout=20)
    cluster.node.set_gpus(5)
    cluster.kubectl.wait("pod/greedy", "--for=jsonpath={.status.phase}=Succeeded", timeout=30)
    cluster.node.set_gpus(4)


def test_a_service_reaches_its_pod_from_another_pod_and_from_the_machine(cluster: Cluster) -> None:
    answer = "while true; do echo hello | /busybox nc -l -p 8000; done"
    cluster.kubectl.apply([_pod("server", answer, labels={"app": "server"}), _service("server", 8000)])
    cluster.kubectl.wait("pod/server", "--for=condition=Ready", timeout=30)
    address = cluster.kubectl.json("get", "service", "server")["spec"]["clusterIP"]
    ask = f"until /busybox nc -w 2 {address} 8000 </dev/null | /busybox grep hello; do /busybox sleep 0.2; done"
    cluster.kubectl.apply(_pod("client", ask))
    cluster.kubectl.wait("pod/client", "--for=jsonpath={.status.phase}=Succeeded", timeout=30)
    assert "hello" in _output("busybox", "sh", "-c", ask.replace("/busybox", "busybox"))


def test_a_service_account_has_its_own_permissions_and_its_writes_are_counted(cluster: Cluster) -> None:
    start = datetime.now(UTC)
    kubectl = cluster.kubectl
    kubectl("create", "serviceaccount", "writer")
    kubectl("create", "role", "writer", "--verb=create,get,patch", "--resource=configmaps")
    kubectl("create", "rolebinding", "writer", "--role=writer", "--serviceaccount=default:writer")
    writer = Kubectl(cluster.service_account_kubeconfig("default", "writer"))
    writer("create", "configmap", "note")
    assert writer.works("get", "configmap", "note")
    with pytest.raises(HarnessError, match="forbidden"):
        writer("delete", "configmap", "note")
    writes = cluster.audit.writes(since=start, user="system:serviceaccount:default:writer")
    seen = [(write.verb, write.resource, write.namespace, write.code) for write in writes]
    assert seen == [("create", "configmaps", "default", 201), ("delete", "configmaps", "default", 403)]


def test_an_image_is_built_once_and_again_only_when_its_sources_change(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS python\nRUN python3 -m venv /venv\n"
        'FROM python AS probe\nCOPY source /source\nENTRYPOINT ["/venv/bin/python", "/source/main.py"]\n'
    )
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "main.py").write_text("print('first')")
    first = cluster.ensure_image("probe", file, tmp_path)
    assert cluster.ensure_image("probe", file, tmp_path) == first
    (tmp_path / "unrelated").write_text("not copied")
    assert cluster.ensure_image("probe", file, tmp_path) == first
    (tmp_path / "source" / "main.py").write_text("print('second')")
    second = cluster.ensure_image("probe", file, tmp_path)
    assert second != first
    cluster.kubectl("run", "probe", f"--image={second}", "--restart=Never", "--image-pull-policy=Never")
    cluster.kubectl.wait("pod/probe", "--for=jsonpath={.status.phase}=Succeeded", timeout=30)
    assert cluster.kubectl("logs", "probe").strip() == "second"
    assert first not in cluster.node.containerd.images()


def test_a_target_depends_on_the_files_that_lead_to_it() -> None:
    text = (
        "ARG BASE\nFROM ${BASE} AS python\nCOPY constraints.txt /\n"
        "FROM python AS builder\nCOPY --chown=1:1 trainer \\\n  common /src/\n"
        "FROM python AS operator\nCOPY operator /src\nFROM python AS trainer\nCOPY --from=builder /src /src\n"
    )
    assert dockerfile.sources(text, "operator") == ["constraints.txt", "operator"]
    assert dockerfile.sources(text, "trainer") == ["common", "constraints.txt", "trainer"]


def test_control_planes_run_side_by_side_and_nodes_do_not(cluster: Cluster) -> None:
    with ControlPlane(f"{NAME}-second") as other:
        other.kubectl("create", "namespace", "only-here")
        assert cluster.kubectl.find("namespace", "only-here") is None
        with pytest.raises(HarnessError, match=f"already runs the node of '{NAME}'"):
            Node(other).start()
        assert other.running
    assert cluster.running


def test_a_killed_cluster_starts_again_under_the_same_name(cluster: Cluster) -> None:
    cluster.kubectl.apply(_pod("endless", "/busybox sleep 3600"))
    cluster.kubectl.wait("pod/endless", "--for=condition=Ready", timeout=30)
    for daemon in ("kubelet", "containerd", "kube-apiserver"):
        _kill(cluster, daemon)
    cluster.start()
    assert cluster.running
    assert cluster.kubectl.find("pod", "endless") is None
    assert not any("sleep\x003600" in command for command in machine()["processes"])


def test_a_start_that_was_killed_half_way_is_started_anew(cluster: Cluster) -> None:
    cluster.stop()
    path = str(Path(harness.__file__).parents[1])
    starting = subprocess.Popen([sys.executable, "-m", "harness", "up", NAME], env={**os.environ, "PYTHONPATH": path})
    _until(lambda: (cluster.node.state / "pod-logs").exists())
    starting.kill()
    starting.wait()
    assert not cluster.running
    cluster.start()
    assert cluster.running
    assert len(cluster.kubectl.json("get", "persistentvolumes")["items"]) == cluster.node.volume_count


def test_nothing_is_left_when_it_ends(cluster: Cluster, before: dict[str, set[str]]) -> None:
    cluster.kubectl.apply(_pod("endless", "/busybox sleep 3600"))
    cluster.kubectl.wait("pod/endless", "--for=condition=Ready", timeout=30)
    assert machine() != before
    cluster.stop()
    assert machine() == before
    assert not (cache.home() / "state" / NAME).exists()


def _pod(name: str, script: str, labels: dict[str, str] | None = None, **container: object) -> dict[str, object]:
    command = ["/busybox", "sh", "-c", script if script != "true" else "exit 0"]
    main = {"name": "main", "image": PAUSE_IMAGE, "imagePullPolicy": "Never", "command": command, **container}
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [main]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _service(name: str, port: int) -> dict[str, object]:
    spec = {"selector": {"app": name}, "ports": [{"port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def _kill(cluster: Cluster, daemon: str) -> None:
    identity = cluster.control_plane.run.processes.identity(daemon)
    assert identity
    identity.send(signal.SIGKILL)


def _until(fact: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
