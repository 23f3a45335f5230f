"""What happens to the cluster itself: a node, its DNS, the operator, the API server, etcd."""

import time

from case import Case, attempt_words, story
from stage import LOST_NODE_SECONDS

from harness import node
from support.kit import SYSTEM

AWAY_SECONDS = 10
"""Long enough for a run that is let go to end meanwhile."""


@story("The node is drained", alone=True)
def drained(case: Case) -> None:
    case.start_and_hold(nodes=2)
    only = f"--pod-selector=finetune.qwen3.io/run={case.name}"
    words = (node.NAME, only, "--delete-emptydir-data", "--force", "--timeout=90s")
    case.finally_do(lambda: case.kubectl("uncordon", node.NAME))
    case.inject(lambda: case.kubectl("drain", *words))
    case.named(attempt_words(), "Disruption.*EvictionByEvictionAPI")
    case.decided("RetryUncounted")
    case.kubectl("uncordon", node.NAME)
    case.succeeded(restarts=1)


@story("The node is gone (its kubelet is killed); then it is back", alone=True)
def node_gone(case: Case) -> None:
    case.start_and_hold()
    with case.stage.cluster.node.crashed("kubelet"):
        case.inject()
        case.named(attempt_words(), "Disruption.*DeletionByTaintManager", LOST_NODE_SECONDS + 60)
        case.decided("RetryUncounted")
    case.succeeded(restarts=1)


@story("The cluster's DNS is gone as the run starts; then it is back", alone=True)
def dns_gone(case: Case) -> None:
    case.run(nodes=2)["spec"]["recovery"] = {"hangTimeoutSeconds": 60}
    with case.stage.cluster.node.crashed("coredns"):
        case.inject(case.apply)
        case.named(attempt_words(), "DNS|resolve", 150)
    case.decided("Retry")
    case.succeeded(restarts=1)


@story("The operator is killed, and the run ends meanwhile", alone=True)
def operator_killed(case: Case) -> None:
    case.start_and_hold(nodes=2)
    words = ("delete", "pod", "--all", "--force", "--grace-period=0", "-n", SYSTEM)
    case.inject(lambda: case.stage.cluster.kubectl(*words))
    case.let_go()
    case.undisturbed("the run does not need it")
    case.succeeded(restarts=0)


@story("The kubelet is killed for seconds, and the run ends meanwhile", alone=True)
def kubelet_killed(case: Case) -> None:
    case.start_and_hold(nodes=2)
    with case.stage.cluster.node.crashed("kubelet"):
        case.inject(case.let_go)
        time.sleep(AWAY_SECONDS)
    case.undisturbed("the run does not need it")
    case.succeeded(restarts=0)


@story("The API server is killed, and the run ends meanwhile", alone=True)
def api_server_killed(case: Case) -> None:
    run_ends_without(case, "kube-apiserver")


@story("etcd is killed, and the run ends meanwhile", alone=True)
def etcd_killed(case: Case) -> None:
    run_ends_without(case, "etcd")


def run_ends_without(case: Case, daemon: str) -> None:
    """The run does its last steps while that daemon of the control plane is away."""
    case.start_and_hold(nodes=2)
    with case.stage.cluster.control_plane.crashed(daemon):
        case.inject(case.let_go)
        time.sleep(AWAY_SECONDS)
    case.undisturbed("the run does not need it")
    case.succeeded(restarts=0)
