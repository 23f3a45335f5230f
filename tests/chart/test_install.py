"""The chart on a real API server: installed, upgraded and uninstalled without a trace but what is to be kept."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import ControlPlane
from harness.shell import HarnessError

SYSTEM, TEAM, OTHERS = "finetune-system", "team", "others"
NAME = "kit-qwen3-finetune"
CRD = "qwen3finetunes.finetune.qwen3.io"


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    """With namespaces, of which the operator's enforces Pod Security's strictest level."""
    for namespace in (SYSTEM, TEAM, OTHERS):
        control_plane.kubectl("create", "namespace", namespace)
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    control_plane.kubectl("label", "namespace", SYSTEM, restricted)
    return control_plane


@pytest.fixture
def release(cluster: ControlPlane, chart: Path, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A release, with the settings that a test gives as its parameter; gone afterwards together with the CRD."""
    settings = getattr(request, "param", ())
    install(cluster, chart, *settings)
    if "crds.enabled=false" not in settings:
        until_served(cluster)
    yield cluster
    cluster.helm("uninstall", "kit", "--namespace", SYSTEM, "--ignore-not-found")
    cluster.kubectl("delete", "crd", CRD, "--ignore-not-found")


def install(cluster: ControlPlane, chart: Path, *settings: str) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    cluster.helm("upgrade", "--install", "kit", chart, "--namespace", SYSTEM, *words)


def until_served(cluster: ControlPlane) -> None:
    """Return once clients find the new kind: its discovery follows the CRD by up to some seconds."""
    deadline = time.monotonic() + 30
    while not cluster.kubectl.works("get", "qwen3finetunes", "-n", TEAM):
        assert time.monotonic() < deadline, "the API server does not serve qwen3finetunes"


def traces(cluster: ControlPlane) -> set[str]:
    """Every object of every kind, in every namespace, that helm put there."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    listed = cluster.kubectl("get", ",".join(kinds), "-A", "-l", "app.kubernetes.io/managed-by=Helm", "-o", "name")
    return set(listed.split())


def may(cluster: ControlPlane, namespace: str, verb: str, resource: str, account: str = f"{SYSTEM}:{NAME}") -> bool:
    """Whether the ServiceAccount, by default the operator's, has this right."""
    kind, _, subresource = resource.partition("/")
    words = (verb, kind, "--namespace", namespace, f"--as=system:serviceaccount:{account}")
    return cluster.kubectl.works("auth", "can-i", *words, *([f"--subresource={subresource}"] if subresource else []))


def test_the_operators_pod_meets_the_restricted_level(release: ControlPlane) -> None:
    release.kubectl(
        "wait", "--for=create", "pod", "-l", "app.kubernetes.io/component=operator", "-n", SYSTEM, "--timeout=60s"
    )
    (pod,) = release.kubectl.json("get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator")["items"]
    container = pod["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["command"] == ["python", "-m", "finetune_operator"]
    assert container["args"] == ["--settings", "/etc/finetune/settings.yaml"]
    assert "cpu" not in container["resources"]["limits"]


def test_the_operator_may_run_runs_and_nothing_more(release: ControlPlane) -> None:
    allowed = [
        ("watch", "qwen3finetunes"),
        ("patch", "qwen3finetunes/status"),
        ("create", "jobs"),
        ("delete", "pods"),
        ("list", "nodes"),
        ("create", "events"),
    ]
    denied = [
        ("get", "secrets"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("get", "pods/log"),
        ("create", "qwen3finetunes"),
        ("patch", "qwen3finetunes"),
        ("delete", "persistentvolumeclaims"),
        ("patch", "nodes"),
        ("create", "roles"),
        ("create", "serviceaccounts/token"),
        ("patch", "deployments"),
        ("list", "namespaces"),
    ]
    assert [right for right in allowed if not may(release, TEAM, *right)] == []
    assert [right for right in denied if may(release, TEAM, *right)] == []


@pytest.mark.parametrize("release", [(f"watchNamespaces={{{TEAM}}}",)], indirect=True, ids=["release"])
def test_an_operator_of_one_namespace_may_do_nothing_in_another(release: ControlPlane) -> None:
    assert may(release, TEAM, "create", "jobs")
    assert not may(release, OTHERS, "create", "jobs")
    assert not may(release, OTHERS, "list", "qwen3finetunes")
    assert not may(release, TEAM, "list", "nodes")


def test_who_edits_a_namespace_edits_its_runs_and_who_views_it_views_them(release: ControlPlane) -> None:
    for role in ("edit", "view"):
        release.kubectl("create", "serviceaccount", role, "-n", TEAM)
        binding = (role, f"--clusterrole={role}", f"--serviceaccount={TEAM}:{role}")
        release.kubectl("create", "rolebinding", *binding, "-n", TEAM)
    assert may(release, TEAM, "create", "qwen3finetunes", f"{TEAM}:edit")
    assert may(release, TEAM, "get", "qwen3finetunes", f"{TEAM}:view")
    assert not may(release, TEAM, "create", "qwen3finetunes", f"{TEAM}:view")
    assert not may(release, OTHERS, "create", "qwen3finetunes", f"{TEAM}:edit")
    assert not may(release, TEAM, "patch", "qwen3finetunes/status", f"{TEAM}:edit")


def test_everything_optional_is_accepted_by_the_api_server(release: ControlPlane, chart: Path) -> None:
    policies = ("networkPolicy.operator.enabled=true", "networkPolicy.trainer.enabled=true")
    install(release, chart, *policies, f"networkPolicy.trainer.namespaces={{{TEAM}}}", "image.pullSecrets={pull}")
    assert release.kubectl.find("networkpolicy", f"{NAME}-trainer", "-n", TEAM)


def test_an_upgrade_changes_what_was_asked_for_and_a_second_one_nothing(release: ControlPlane, chart: Path) -> None:
    def generations() -> dict[str, int]:
        listed = release.kubectl.json("get", "deployment,crd", "-n", SYSTEM)["items"]
        return {each["metadata"]["name"]: each["metadata"]["generation"] for each in listed}

    before = generations()
    install(release, chart, "limits.maxNodes=3")
    after = generations()
    assert after[NAME] == before[NAME] + 1
    assert after[CRD] == before[CRD]
    text = release.kubectl.json("get", "configmap", f"{NAME}-settings", "-n", SYSTEM)["data"]["settings.yaml"]
    assert "maxNodes: 3" in text
    install(release, chart, "limits.maxNodes=3")
    assert generations() == after


def test_uninstalling_leaves_nothing_but_the_crd_and_its_runs(release: ControlPlane, chart: Path) -> None:
    run = {
        "apiVersion": "finetune.qwen3.io/v1alpha1",
        "kind": "Qwen3FineTune",
        "metadata": {"name": "precious", "namespace": TEAM},
        "spec": {"model": {"id": "Qwen/Qwen3-8B"}, "dataset": {"path": "rows.json"}},
    }
    release.kubectl("wait", "--for=condition=Established", f"crd/{CRD}")
    release.kubectl("create", "-f", "-", stdin=json.dumps(run))
    assert len(traces(release)) > 5
    release.helm("uninstall", "kit", "--namespace", SYSTEM)
    release.kubectl("wait", "--for=delete", "pod", "-n", SYSTEM, "--all", "--timeout=60s")
    assert traces(release) == {f"customresourcedefinition.apiextensions.k8s.io/{CRD}"}
    assert release.kubectl.find("q3ft", "precious", "-n", TEAM)
    install(release, chart)  # what was kept is taken over again
    assert release.kubectl.find("q3ft", "precious", "-n", TEAM)


@pytest.mark.parametrize("release", [("replicas=2", "crds.enabled=false")], indirect=True, ids=["release"])
def test_replicas_may_write_their_own_lease_alone(release: ControlPlane) -> None:
    def may_patch(lease: str, namespace: str) -> bool:
        words = (f"leases.coordination.k8s.io/{lease}", "-n", namespace, f"--as=system:serviceaccount:{SYSTEM}:{NAME}")
        return release.kubectl.works("auth", "can-i", "patch", *words)

    assert may_patch(NAME, SYSTEM)
    assert not may_patch("another", SYSTEM)
    assert not may_patch(NAME, TEAM)


@pytest.mark.parametrize("release", [("crds.keep=false", "replicas=2")], indirect=True, ids=["release"])
def test_uninstalling_takes_the_crd_along_when_it_is_not_to_be_kept(release: ControlPlane) -> None:
    release.helm("uninstall", "kit", "--namespace", SYSTEM)
    release.kubectl("wait", "--for=delete", f"crd/{CRD}", "--timeout=60s")
    assert traces(release) == set()


@pytest.mark.parametrize("release", [("crds.enabled=false",)], indirect=True, ids=["release"])
def test_without_the_crd_helm_installs_none(release: ControlPlane) -> None:
    with pytest.raises(HarnessError, match="NotFound"):
        release.kubectl("get", "crd", CRD)
