"""What people do to a run that trains: delete and edit what belongs to it, stop it, write into its status."""

import json
import signal

from case import Case, attempt_words, condition_words, story


@story("A pod is deleted by hand")
def pod_deleted(case: Case) -> None:
    case.start_and_hold(nodes=2)
    name = case.pod(1)["metadata"]["name"]
    case.inject(lambda: case.kubectl("delete", "pod", name, "--wait=false"))
    case.named(attempt_words(), "Preempted|Disruption")
    case.decided("RetryUncounted")
    case.succeeded(restarts=1)


@story("The attempt's Job is deleted by hand")
def job_deleted(case: Case) -> None:
    case.start_and_hold()
    case.inject(lambda: case.kubectl("delete", "job", f"{case.name}-r1", "--wait=false"))
    case.named(attempt_words(), "Preempted|deleted")
    case.decided("RetryUncounted")
    case.succeeded(restarts=1)


@story("The workers' Service is deleted by hand")
def service_deleted(case: Case) -> None:
    case.start_and_hold(nodes=2)
    (name,) = case.of_run("services")
    case.inject(lambda: case.kubectl("delete", "service", name))
    case.repaired("service", name)
    case.let_go()
    case.succeeded(restarts=0)


@story("The ConfigMaps are edited (refused) and deleted by hand, and a rank is killed")
def config_deleted(case: Case) -> None:
    case.start_and_hold()
    names = case.of_run("configmaps")
    for name in names:
        edit = ("patch", "configmap", name, "-n", case.kit.team, "--type=merge", "-p", '{"data": {"run.json": "{}"}}')
        assert not case.stage.cluster.kubectl.works(*edit), f"ConfigMap {name} could be edited"
    case.kubectl("delete", "configmap", *names)
    case.inject(lambda: case.send(signal.SIGKILL))
    case.named(attempt_words(), "Infrastructure.*SIGKILL")
    case.decided("Retry")
    case.succeeded(restarts=1)


@story("The run is suspended in the middle, and resumed")
def suspended(case: Case) -> None:
    case.start_and_hold(nodes=2)
    case.inject(lambda: case.kit.patch(case.name, {"suspend": True}))
    case.named(condition_words("Suspended"), "Suspended: no worker is left; the checkpoint of step [4-9]")
    case.decided("Suspend")
    case.kit.patch(case.name, {"suspend": False})
    case.succeeded(restarts=1)


@story("The status is overwritten by hand: Failed, no attempts")
def status_tampered(case: Case) -> None:
    case.start_and_hold()
    patch = json.dumps({"status": {"phase": "Failed", "conditions": [], "progress": None}})
    words = ("patch", "qwen3finetune", case.name, "--subresource=status", "--type=merge", "-p", patch)
    case.inject(lambda: case.kubectl(*words))
    case.until(lambda status: status.get("phase") == "Failed", "the lie", 10)
    case.named(lambda status: f"phase {status.get('phase')}", "phase Running", 30)
    case.inject(case.let_go)
    case.succeeded(restarts=0)


@story("The run is deleted in the middle")
def deleted(case: Case) -> None:
    case.start_and_hold(nodes=2)
    case.undisturbed("it was asked for")
    case.row.decision, case.row.is_decision_right = "stops", True
    case.row.result, case.row.is_result_right = "see the next column", True
