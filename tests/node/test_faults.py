"""What goes wrong on a real cluster, and that nothing is lost: kills, suspension, deletion."""

import signal
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from harness import project
from support import faults, volumes
from support.faults import Hook
from support.kit import INPUTS, SYSTEM, TEAM, Kit, finetune

STEPS = 40


def long_run(name: str, **spec: Any) -> dict[str, Any]:
    """A run that is long enough to be disturbed, with dropout so that only an exact resume gives the same losses."""
    run = finetune(name, **spec)
    run["spec"]["training"]["maxSteps"] = STEPS
    run["spec"]["method"] = {"type": "LoRA", "lora": {"rank": 8, "alpha": 32, "dropout": 0.1}}
    return run


def at_step(step: int) -> Any:
    """Whether a status tells of a run that trains and has done so many steps."""
    return lambda status: status.get("phase") == "Running" and status.get("progress", {}).get("step", 0) >= step


@pytest.fixture(scope="module")
def unbroken(kit: Kit) -> dict[int, float]:
    """The losses of a run that nobody disturbs: the operator is killed meanwhile, and that is no disturbance."""
    kit.apply(long_run("unbroken"))
    kit.wait("unbroken", at_step(5), "step 5")
    kit.cluster.kubectl("-n", SYSTEM, "delete", "pod", "--all", "--force", "--grace-period=0")
    status = kit.wait_phase("unbroken", "Succeeded")["status"]
    assert status["restarts"] == 0
    return kit.losses("unbroken")


def test_a_killed_operator_disturbs_nothing_and_makes_nothing_twice(kit: Kit, unbroken: dict[int, float]) -> None:
    assert sorted(unbroken) == list(range(1, STEPS + 1))
    jobs = kit.cluster.kubectl.json("-n", TEAM, "get", "jobs", "-l", "finetune.qwen3.io/run=unbroken")["items"]
    assert sorted(job["metadata"]["name"] for job in jobs) == ["unbroken-prepare", "unbroken-r1"]
    created = [
        write.name
        for write in kit.cluster.audit.writes()
        if write.namespace == TEAM and write.resource in ("jobs", "services", "configmaps") and write.code == 201
    ]
    assert len(created) == len(set(created))


def test_a_killed_rank_leads_to_attempt_two_and_the_same_losses(kit: Kit, unbroken: dict[int, float]) -> None:
    kit.apply(long_run("killed"))
    kit.wait("killed", at_step(10), "step 10")
    faults.send("killed-r1-1", signal.SIGKILL)
    kit.wait("killed", lambda status: status.get("restarts", 0) == 1, "a second attempt")
    status = kit.wait_phase("killed", "Succeeded")["status"]
    first, second = status["attempts"]
    assert (first["cause"], first["decision"]) == ("Infrastructure", "Retry")
    assert "SIGKILL" in first["message"]
    assert second["resumedFromStep"] % 4 == 0
    assert second["resumedFromStep"] + first["stepsLost"] == first["lastStep"]
    assert kit.losses("killed") == unbroken


def test_a_run_ends_well_while_the_api_server_is_dead(kit: Kit, unbroken: dict[int, float]) -> None:
    kit.apply(long_run("unattended"))
    kit.wait("unattended", at_step(10), "step 10")
    with kit.cluster.control_plane.crashed("kube-apiserver"):
        deadline = time.monotonic() + 120
        while faults.ranks("unattended-r1-0"):
            assert time.monotonic() < deadline, "the ranks do not come to their end"
            time.sleep(0.5)
    status = kit.wait_phase("unattended", "Succeeded")["status"]
    assert status["restarts"] == 0
    assert kit.losses("unattended") == unbroken


def test_a_volume_that_fills_up_in_the_middle_ends_the_run_with_the_remedy(kit: Kit) -> None:
    claim, host = "small-output", "filled-r1-0"
    kit.cluster.kubectl.apply(project.claim(claim, TEAM, f"volume-{kit.cluster.node.volume_count - 1}"))
    run = finetune("filled", parallelism={"nodes": 1, "gpusPerNode": 1, "strategy": "DDP"})
    run["spec"]["storage"]["output"] = {"claimName": claim}
    faults.hook(kit, host, Hook(hold_step=6))
    with volumes.tmpfs(kit.volume(claim), 64 * 2**20) as folder:
        kit.apply(run)
        kit.wait("filled", at_step(4), "step 4")  # of step 5 it tells when step 6 is on its way
        volumes.fill(folder)
        faults.let_go(kit, host)
        status = kit.wait_phase("filled", "Failed")["status"]
    (attempt,) = status["attempts"]
    assert (attempt["cause"], attempt["reason"], attempt["decision"]) == ("UserError", "DiskFull", "GiveUp")
    assert "storage.output" in status["failure"]["message"]


def test_suspend_gives_the_gpus_back_and_resume_goes_on_exactly(kit: Kit, unbroken: dict[int, float]) -> None:
    kit.apply(long_run("paused"))
    kit.wait("paused", at_step(6), "step 6")
    kit.patch("paused", {"suspend": True})
    status = kit.wait_phase("paused", "Suspended")["status"]
    assert {pod["status"]["phase"] for pod in kit.pods("paused", role="worker")} <= {"Succeeded", "Failed"}
    saved = status["checkpoint"]["step"]
    assert saved >= 6
    kit.patch("paused", {"suspend": False})
    status = kit.wait_phase("paused", "Succeeded")["status"]
    assert status["attempts"][1]["resumedFromStep"] == saved
    assert status["failures"] == 0
    assert kit.losses("paused") == unbroken


def test_a_settled_run_costs_no_writes(kit: Kit, unbroken: dict[int, float]) -> None:
    assert unbroken
    start = datetime.now(UTC)
    time.sleep(20)
    ours = [write for write in kit.cluster.audit.writes(since=start) if SYSTEM in str(write.user)]
    assert ours == []


def test_deletion_takes_every_owned_object_along(kit: Kit) -> None:
    kept = finetune("kept")
    kept["spec"]["storage"]["output"] = {"size": "1Gi", "onDelete": "Retain"}
    gone = finetune("gone")
    for run in (kept, gone):
        kit.apply(run)
    for name in ("kept", "gone"):
        kit.wait(name, lambda status: bool(status.get("attempts")), "an attempt")
        kit.cluster.kubectl("-n", TEAM, "delete", "qwen3finetune", name, "--wait=false")
    deadline = time.monotonic() + 300
    while left := _owned(kit, "kept") + _owned(kit, "gone"):
        assert time.monotonic() < deadline, left
        time.sleep(1)
    claims = kit.cluster.kubectl.json("-n", TEAM, "get", "pvc")["items"]
    names = {claim["metadata"]["name"] for claim in claims if not claim["metadata"].get("deletionTimestamp")}
    assert "kept-output" in names
    assert "gone-output" not in names


def _owned(kit: Kit, name: str) -> list[str]:
    kinds = "jobs,pods,services,configmaps"
    found = kit.cluster.kubectl.json("-n", TEAM, "get", kinds, "-l", f"finetune.qwen3.io/run={name}")["items"]
    return [f"{item['kind']}/{item['metadata']['name']}" for item in found]


BAD_DATA = {
    "no-output": ('[\n {"instruction": "q", "output": "a"},\n {"instruction": "q"}\n]', "line 3"),
    "broken": ('[\n {"instruction": "q", "output": "a"},\n {"instruction": "q",\n]', "line"),
    "empty": ("[]", "no rows"),
    "columns": ('[\n {"prompt": "q", "reply": "a"}\n]', "prompt, reply"),
}


@pytest.fixture(scope="module")
def refused(kit: Kit) -> dict[str, Any]:
    """Runs over bad data and with a bad target, all at once, and what became of them."""
    for name, (text, _) in BAD_DATA.items():
        (kit.volume(INPUTS) / f"{name}.json").write_text(text)
        run = finetune(name)
        run["spec"]["dataset"] = {"path": f"{name}.json", "maxTokens": 128}
        kit.apply(run)
    target = finetune("target")
    target["spec"]["method"] = {"type": "LoRA", "lora": {"targets": ["q_prj"]}}
    kit.apply(target)
    return {name: kit.wait_phase(name, "Failed")["status"] for name in (*BAD_DATA, "target")}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_refused_with_its_place_before_a_gpu_is_asked_for(
    kit: Kit, refused: dict[str, Any], name: str
) -> None:
    prepared = next(each for each in refused[name]["conditions"] if each["type"] == "Prepared")
    assert prepared["status"] == "False"
    assert BAD_DATA[name][1] in prepared["message"]
    assert kit.pods(name, role="worker") == []


def test_a_target_that_does_not_exist_is_refused_and_a_near_one_named(kit: Kit, refused: dict[str, Any]) -> None:
    prepared = next(each for each in refused["target"]["conditions"] if each["type"] == "Prepared")
    assert "q_prj" in prepared["message"]
    assert "q_proj" in prepared["message"]
    assert kit.pods("target", role="worker") == []
