"""What the chart renders, without a cluster."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel

from finetune_contract.version import __version__
from finetune_operator.crd import definition
from finetune_operator.metrics import Metrics
from finetune_operator.settings import Fabric, Gangs, Kueue, LeaderElection, Pricing, Settings, load_settings
from harness.helm import Helm
from harness.shell import HarnessError

ROOT = Path(__file__).parents[2]
NAME = "kit-qwen3-finetune"
EVERYTHING: dict[str, Any] = {
    "replicas": 2,
    "serviceAccount": {"annotations": {"example.com/role": "trainer"}},
    "image": {"registry": "registry.example", "pullSecrets": ["pull"]},
    "trainer": {"image": {"registry": "registry.example"}, "environment": {"NCCL_SOCKET_IFNAME": "eth0"}},
    "metrics": {each: {"enabled": True} for each in ("serviceMonitor", "podMonitor", "prometheusRule")},
    "networkPolicy": {
        "operator": {"enabled": True, "extraEgress": [{"ports": [{"port": 8443}]}]},
        "trainer": {"enabled": True, "namespaces": ["team-a", "team-b"], "extraIngress": [{"ports": [{"port": 9000}]}]},
    },
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "system-cluster-critical",
    "podAnnotations": {"example.com/a": "b"},
    "podLabels": {"example.com/c": "d"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example"}],
}


def settings_of(objects: Any, folder: Path) -> Settings:
    file = folder / "settings.yaml"
    file.write_text(objects["ConfigMap", f"{NAME}-settings"]["data"]["settings.yaml"])
    return load_settings(file)


def test_lint_finds_nothing(helm: Helm, chart: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", chart)


def test_chart_and_images_have_the_projects_version(chart: Path) -> None:
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (__version__, __version__)
    assert set(re.findall(r"^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text(), re.M)) == {__version__}


def test_a_plain_install_is_one_deployment_and_what_it_needs(render: Any) -> None:
    assert set(render()) == {
        ("CustomResourceDefinition", "qwen3finetunes.finetune.qwen3.io"),
        ("ServiceAccount", NAME),
        ("ClusterRole", NAME),
        ("ClusterRole", f"{NAME}-edit"),
        ("ClusterRole", f"{NAME}-view"),
        ("ClusterRoleBinding", NAME),
        ("ConfigMap", f"{NAME}-settings"),
        ("Deployment", NAME),
        ("Service", NAME),
        ("Pod", f"{NAME}-test"),
    }


@pytest.mark.parametrize(
    "values", [{}, EVERYTHING, {**EVERYTHING, "watchNamespaces": ["team-a"]}], ids=["plain", "everything", "namespaced"]
)
def test_every_object_is_valid_to_kubernetes_own_schemas(render: Any, values: dict[str, Any]) -> None:
    checked = [each for each in render(values).values() if "monitoring.coreos.com" not in each["apiVersion"]]
    for each in checked:
        kubernetes_validate.validate(each, "1.35", strict=True)
    assert len(checked) >= 10


def test_every_object_carries_the_standard_labels(render: Any) -> None:
    for key, each in render(EVERYTHING).items():
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "qwen3-finetune", key
        assert labels["app.kubernetes.io/instance"] == "kit", key
        assert labels["app.kubernetes.io/managed-by"] == "Helm", key
        assert labels["helm.sh/chart"] == "qwen3-finetune-0.1.0", key


def test_default_settings_are_the_operators_own_defaults(render: Any, tmp_path: Path) -> None:
    assert settings_of(render(), tmp_path) == Settings()


def test_settings_carry_the_values(render: Any, tmp_path: Path) -> None:
    values = {
        "trainer": {
            "image": {"registry": "registry.example/team", "digest": f"sha256:{'a' * 64}", "pullSecrets": ["pull"]},
            "environment": {"OMP_NUM_THREADS": "1"},
            "runtimeClassName": "nvidia",
        },
        "limits": {"priorityClasses": ["low", "high"], "queues": ["research"]},
        "gangs": {"kueue": {"enabled": True}},
        "fabrics": {"efa": {"resources": {"vpc.amazonaws.com/efa": "4"}, "ipcLock": True}},
        "watchNamespaces": ["team-a", "team-b"],
        "settings": {"progressIntervalSeconds": 0.5},
        "pricing": {"currency": "EUR", "perGpuHour": {"nvidia.com/gpu": 2.5}},
    }
    settings = settings_of(render(values), tmp_path)
    assert settings.image.reference == f"registry.example/team/qwen3-finetune-trainer@sha256:{'a' * 64}"
    assert settings.image.pull_secrets == ("pull",)
    assert settings.pods.environment == {"OMP_NUM_THREADS": "1"}
    assert settings.pods.runtime_class_name == "nvidia"
    assert settings.limits.priority_classes == ("low", "high")
    assert settings.limits.queues == ("research",)
    assert settings.gangs == Gangs(kueue=Kueue(enabled=True))
    assert settings.fabrics == {"efa": Fabric(resources={"vpc.amazonaws.com/efa": "4"}, ipc_lock=True)}
    assert settings.namespaces == ("team-a", "team-b")
    assert settings.progress_interval_seconds == 0.5
    assert settings.pricing == Pricing(currency="EUR", per_gpu_hour={"nvidia.com/gpu": 2.5})


def test_the_admin_says_where_runs_may_push_to(render: Any, tmp_path: Path) -> None:
    hubs = ["ModelScope"]
    assert settings_of(render({"limits": {"pushHubs": hubs}}), tmp_path).limits.push_hubs == ("ModelScope",)
    assert settings_of(render({"limits": {"pushHubs": []}}), tmp_path).limits.push_hubs == ()
    with pytest.raises(HarnessError, match="pushHubs"):
        render({"limits": {"pushHubs": ["GitHub"]}})


def keys(kind: Any) -> Any:
    """The names of a model's fields, as they are written, and those of the models below it."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return None
    return {str(field.alias): keys(field.annotation) for field in kind.model_fields.values()}


def test_every_setting_of_the_operator_can_be_set(render: Any) -> None:
    def shape(value: Any, like: Any) -> Any:
        return {key: shape(value[key], like.get(key)) for key in value} if isinstance(like, dict) else None

    written = yaml.safe_load(render()["ConfigMap", f"{NAME}-settings"]["data"]["settings.yaml"])
    assert shape(written, keys(Settings)) == keys(Settings)


def test_the_crd_is_the_generated_one(render: Any) -> None:
    key = ("CustomResourceDefinition", "qwen3finetunes.finetune.qwen3.io")
    crd = render()[key]
    assert crd["spec"] == definition()["spec"]
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in render({"crds": {"keep": False}})[key]["metadata"]
    assert key not in render({"crds": {"enabled": False}})


def rights(role: dict[str, Any]) -> dict[str, str]:
    return {
        f"{group}/{resource}".removeprefix("/"): " ".join(sorted(rule["verbs"]))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


RUN_RIGHTS = {
    "finetune.qwen3.io/qwen3finetunes": "delete get list watch",
    "finetune.qwen3.io/qwen3finetunes/status": "patch",
    "finetune.qwen3.io/qwen3finetunes/finalizers": "update",
    "batch/jobs": "create delete get list watch",
    "services": "create get list patch watch",
    "configmaps": "create get list patch watch",
    "persistentvolumeclaims": "create get list watch",
    "pods": "delete get list watch",
    "events": "create get list patch",
}


def test_the_operator_has_these_rights_and_no_others(render: Any) -> None:
    assert rights(render()["ClusterRole", NAME]) == {**RUN_RIGHTS, "nodes": "list"}
    assert rights(render({"rbac": {"readNodes": False}})["ClusterRole", NAME]) == RUN_RIGHTS


GANG_RIGHTS = {
    "kueue": {
        "kueue.x-k8s.io/workloads": "list",
        "visibility.kueue.x-k8s.io/localqueues/pendingworkloads": "get",
    },
    "volcano": {"scheduling.volcano.sh/podgroups": "create get"},
    "coscheduling": {"scheduling.x-k8s.io/podgroups": "create get"},
}


@pytest.mark.parametrize("gang", GANG_RIGHTS)
def test_a_gang_scheduler_brings_its_rights_and_no_others(render: Any, gang: str) -> None:
    values = {"gangs": {gang: {"enabled": True}}, "watchNamespaces": ["team-a"]}
    assert rights(render(values)["Role", f"team-a/{NAME}"]) == {**RUN_RIGHTS, **GANG_RIGHTS[gang]}


def test_an_operator_of_some_namespaces_has_rights_in_these_alone(render: Any) -> None:
    objects = render({"watchNamespaces": ["team-a", "team-b"]})
    assert {key for key in objects if "Role" in key[0] and not key[1].endswith(("-edit", "-view"))} == {
        (kind, f"{namespace}/{NAME}") for kind in ("Role", "RoleBinding") for namespace in ("team-a", "team-b")
    }
    assert rights(objects["Role", f"team-a/{NAME}"]) == RUN_RIGHTS


def test_two_replicas_agree_on_one_by_a_lease_in_their_own_namespace(render: Any, tmp_path: Path) -> None:
    objects = render({"replicas": 2})
    terms = settings_of(objects, tmp_path).leader_election
    assert terms == LeaderElection(namespace="system", name=NAME)
    deployment = objects["Deployment", NAME]["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (2, "RollingUpdate")
    assert objects["PodDisruptionBudget", NAME]["spec"]["maxUnavailable"] == 1
    assert "spec" not in objects["Lease", NAME], "an upgrade takes it from nobody"
    creating, changing = objects["Role", f"{NAME}-leader"]["rules"]
    assert (creating["resources"], creating["verbs"]) == (["leases"], ["create"])
    assert (changing["resourceNames"], changing["verbs"]) == ([NAME], ["get", "patch"])
    assert rights(objects["ClusterRole", NAME]) == {**RUN_RIGHTS, "nodes": "list"}


def test_one_replica_needs_no_lease(render: Any) -> None:
    assert render()["Deployment", NAME]["spec"]["strategy"] == {"type": "Recreate"}
    assert "leases" not in str(render())


def test_alerts_ask_for_metrics_that_there_are(render: Any) -> None:
    known = {family.name for family in Metrics(list, clock=lambda: 0.0, ticks=lambda: 0.0).registry.collect()}
    [group] = render(EVERYTHING)["PrometheusRule", NAME]["spec"]["groups"]
    for rule in group["rules"]:
        asked = set(re.findall(r"qwen3_finetune_[a-z_]+", rule["expr"]))
        assert {name.removesuffix("_total") for name in asked} <= known, rule["alert"]
    assert "> 21600" in group["rules"][-1]["expr"]
    assert "{{ $value | humanizeDuration }}" in group["rules"][-1]["annotations"]["summary"]


def test_a_change_of_settings_restarts_the_operator(render: Any) -> None:
    def checksum(values: dict[str, Any]) -> str:
        return str(render(values)["Deployment", NAME]["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"podLabels": {"a": "b"}})
    assert checksum({}) != checksum({"limits": {"maxNodes": 2}})


def test_a_policy_for_training_pods_needs_to_know_their_namespaces(render: Any) -> None:
    with pytest.raises(HarnessError, match=r"list them in networkPolicy\.trainer\.namespaces or watchNamespaces"):
        render({"networkPolicy": {"trainer": {"enabled": True}}})


def test_training_pods_never_reach_the_clouds_metadata_service(render: Any) -> None:
    policy = render(EVERYTHING)["NetworkPolicy", f"team-a/{NAME}-trainer"]
    outside = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule.get("to", ()) if "ipBlock" in peer]
    assert outside == [{"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}]
    assert not [rule for rule in policy["spec"]["egress"] if "to" not in rule and rule["ports"][0]["port"] != 53]
