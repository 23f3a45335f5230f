"""Two runs and one quota under the real Kueue, on a real cluster: what the kit promises, seen with kubectl.

usage: PYTHONPATH=tests python benchmarks/kueue > transcript.txt

`night` is admitted and trains. `day`, of a higher priority, comes and takes its place: `night` saves, queues again, and
when `day` is done it is admitted once more and goes on from its checkpoint. A third run, `alone`, is `night` without a
disturbance: both must have the same losses. Takes about ten minutes, most of them for images the first time.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manager import VERSION, commit, kueue, make_queues, program

from harness import Cluster, project
from support.kit import INPUTS, TEAM, Kit, finetune

STEPS = 400
"""Of night and alone: many enough that day, whose data take seconds to prepare, comes in the middle."""
DAY_STEPS = 40
VALUES = {
    "gangs.kueue.enabled": "true",
    "limits.queues[0]": "research",
    "limits.queuePriorityClasses[0]": "night",
    "limits.queuePriorityClasses[1]": "day",
    "settings.progressIntervalSeconds": "1",
    "trainer.graceSeconds": "60",
}
COLUMNS = (
    "custom-columns=NAME:.metadata.name,PHASE:.status.phase,STEP:.status.progress.step,QUEUE:.status.queue,"
    'RESTARTS:.status.restarts,FAILURES:.status.failures,WHY:.status.conditions[?(@.type=="Running")].message'
)
WORKLOADS = "custom-columns=NAME:.metadata.name,PRIORITY:.spec.priority,CONDITIONS:.status.conditions[*].type"


class Story:
    """The kit on a cluster with Kueue, and a transcript of what kubectl says."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kit = Kit(cluster)
        self._began = time.monotonic()

    def tell(self, what: str) -> None:
        """A heading with the time that has passed."""
        print(f"\n== {time.monotonic() - self._began:5.0f} s: {what}", flush=True)

    def show(self, *words: str) -> None:
        """A command and its answer."""
        print(f"$ kubectl {' '.join(words)}\n{self.cluster.kubectl(*words).rstrip()}", flush=True)

    def look(self) -> None:
        """Runs, Jobs, Workloads and pods of the team."""
        self.show("-n", TEAM, "get", "q3ft", "-o", COLUMNS)
        self.show("-n", TEAM, "get", "jobs,pods")
        self.show("-n", TEAM, "get", "workloads", "-o", WORKLOADS)

    def wait(
        self, name: str, what: str, fact: Callable[[dict[str, Any]], bool], seconds: float = 300
    ) -> dict[str, Any]:
        """The status of a run once `fact` is true of it."""
        found: dict[str, Any] = self.kit.wait(name, fact, what, seconds)["status"]
        return found


def main() -> None:
    """Set up, tell the story, put everything away."""
    program()
    inputs = Path(tempfile.mkdtemp(prefix="kueue-inputs-"))
    subprocess.run(
        [sys.executable, str(project.ROOT / "examples/tiny/make_model.py"), str(inputs / "tiny")], check=True
    )
    shutil.copy(project.ROOT / "examples/huanhuan.json", inputs)
    with Cluster("kueue", gpus=8) as cluster:
        project.install(cluster, VALUES)
        cluster.kubectl("create", "namespace", TEAM)
        cluster.kubectl.apply([project.claim(INPUTS, TEAM, "volume-0"), project.claim("model-cache", TEAM, "volume-1")])
        story = Story(cluster)
        story.kit.put_inputs(inputs)
        print(f"kit {commit()}, Kueue {VERSION}")
        print(cluster.kubectl("version").strip())
        with kueue(cluster):
            make_queues(cluster)
            _tell(story)
    shutil.rmtree(inputs)


def _tell(story: Story) -> None:
    story.tell("one GPU for everybody")
    story.show("get", "clusterqueues,localqueues,workloadpriorityclasses", "-A")
    story.kit.apply(_run("alone", "night"))
    story.wait("alone", "Succeeded", lambda status: status.get("phase") == "Succeeded")
    story.tell("alone, undisturbed, has ended; night is admitted and trains")
    story.kit.apply(_run("night", "night"))
    story.wait("night", "some steps", lambda status: status.get("progress", {}).get("step", 0) >= 20)
    story.look()
    story.tell("day comes, of higher priority")
    story.kit.apply(_run("day", "day", DAY_STEPS))
    story.wait("night", "eviction", lambda status: "endedAt" in status["attempts"][0])
    story.tell("night has lost its place: it saves and stops")
    story.look()
    story.wait("night", "the queue's word", lambda status: status["queue"].startswith("research #"))
    story.wait("day", "a step", lambda status: status.get("phase") == "Running")
    story.tell("day trains, and night waits in the queue")
    story.look()
    story.show("-n", TEAM, "get", "q3ft", "night", "-o", "jsonpath-as-json={.status.attempts}")
    story.wait("day", "Succeeded", lambda status: status.get("phase") == "Succeeded")
    story.tell("day is done")
    status = story.wait("night", "Succeeded", lambda status: status.get("phase") == "Succeeded")
    story.tell("night is done")
    story.look()
    story.show("-n", TEAM, "get", "events", "--field-selector", "involvedObject.name=night", "--sort-by=.lastTimestamp")
    _judge(story, status)


def _judge(story: Story, status: dict[str, Any]) -> None:
    """What was promised, checked; an AssertionError says which promise was broken."""
    first, second = status["attempts"]
    assert (first["cause"], first["decision"], status["failures"]) == ("Disruption", "RetryUncounted", 0), first
    assert first["stepsLost"] == 0, first
    assert second["resumedFromStep"] == first["lastStep"] > 0, (first, second)
    alone, night = story.kit.losses("alone"), story.kit.losses("night")
    assert alone.keys() == night.keys() == set(range(1, STEPS + 1))
    apart = max(abs(alone[step] - night[step]) for step in alone)
    writes = [each for each in story.cluster.audit.writes(None) if each.resource == "jobs" and "kueue" not in each.user]
    ours = {each.verb for each in writes if each.user.startswith(f"system:serviceaccount:{project.NAMESPACE}:")}
    assert ours == {"create", "delete"}, ours
    assert apart == 0, apart
    print(f"\nnight lost its place after step {first['lastStep']}, lost {first['stepsLost']} steps, and went on at")
    print(f"{second['resumedFromStep']}. Its {STEPS} losses are those of alone: largest difference {apart}.")
    print(f"Writes of the operator to Jobs: {', '.join(sorted(ours))}.")


def _run(name: str, priority: str, steps: int = STEPS) -> dict[str, Any]:
    scheduling = {"gang": "Kueue", "queue": "research", "queuePriorityClass": priority}
    training = {
        "maxSteps": steps,
        "epochs": 1000,
        "globalBatch": {"samples": 8},
        "learningRate": 1e-2,
        "precision": "Fp32",
    }
    return finetune(
        name,
        scheduling=scheduling,
        training=training,
        parallelism={"nodes": 1, "gpusPerNode": 1},
        checkpoint={"everySteps": 1000, "keep": 2},
    )


if __name__ == "__main__":
    main()
