"""The cluster that the stories happen on: the kit installed, the unbroken runs that others are compared with."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from watch import Watch

from harness import Cluster, cache
from harness.volumes import CLASS
from support import faults
from support.kit import ROOT, TEAM, Kit, Run, finetune

STEPS = 12
HOLD_STEP = 6
"""Where a run waits for its fault: a checkpoint of step 4 lies behind it, and one of step 8 before it."""
GRACE_SECONDS = 30
LOST_NODE_SECONDS = 40
QUOTA_TEAM = "team-quota"
VALUES = {
    **faults.HOOKED,
    "trainer.graceSeconds": str(GRACE_SECONDS),
    "settings.fencingGraceSeconds": "5",
    "settings.resyncSeconds": "10",
    "trainer.prepareMemory": "2Gi",
    "watchNamespaces": f"{{{TEAM},{QUOTA_TEAM}}}",
}
"""The operator looks after these teams; others of a story may have one that is set up differently."""
Losses = dict[int, float]


class Stage:
    """One cluster for many stories at once."""

    def __init__(self, cluster: Cluster, work: Path) -> None:
        self.cluster = cluster
        self.work = work
        self.kit = Kit(cluster)
        self.watch = Watch(cluster.kubectl)
        self.machine = threading.RLock()
        """Of whoever changes something that all stories share."""
        self._references: dict[str, Future[Losses]] = {}
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="unbroken")
        self._inputs = work / "inputs"

    def set_up(self) -> None:
        """The kit installed, with the hooks, and model and rows on the inputs volume."""
        make_model = [sys.executable, str(ROOT / "examples/tiny/make_model.py"), str(self._inputs / "tiny")]
        subprocess.run(make_model, check=True, stdout=subprocess.DEVNULL)
        (self._inputs / "huanhuan.json").write_bytes((ROOT / "examples/huanhuan.json").read_bytes())
        self.quota_kit = self.another_team(QUOTA_TEAM)
        self.kit.install(VALUES)
        self.kit.put_inputs(self._inputs)
        faults.put_hooks(self.kit)
        self.trainer_image = self.cluster.ensure_image("trainer", ROOT / "Dockerfile", ROOT)
        self.watch.start()

    def another_team(self, name: str) -> Kit:
        """A kit of a namespace of its own, with the same inputs and nobody who looks after it yet."""
        kit = Kit(self.cluster, team=name)
        with self.machine:
            inputs, cache = self.free_volumes(2)
            kit.make_team(inputs, cache)
            kit.put_inputs(self._inputs)
        return kit

    def free_volumes(self, count: int) -> list[str]:
        """Names of volumes that no claim has; held by whoever holds `machine`, and far from those that pods take."""
        volumes = self.cluster.kubectl.json("get", "persistentvolumes", "-l", f"class={CLASS}")["items"]
        free = [each["metadata"]["name"] for each in volumes if each["status"].get("phase") == "Available"]
        return [name for name in reversed(free) if name not in ("volume-0", "volume-1")][:count]

    def reference(self, run: Run) -> "Future[Losses]":
        """The losses of the same run when nobody disturbs it; runs that differ in nothing else share one."""
        spec = run["spec"]
        nodes, steps = spec["parallelism"]["nodes"], spec["training"]["maxSteps"]
        dropout = spec["method"]["lora"].get("dropout", 0.0)
        name = f"unbroken-{nodes}n-{steps}s{'' if dropout else '-plain'}"
        with self.machine:
            if name not in self._references:
                run = small_run(name, nodes=nodes, steps=steps, dropout=dropout)
                self._references[name] = self._pool.submit(self._unbroken, name, run)
            return self._references[name]

    def _unbroken(self, name: str, run: Run) -> Losses:
        """Kept on this machine for as long as image and spec are the same."""
        kept = cache.home() / "unbroken" / f"{cache.digest([self.trainer_image, json.dumps(run)])}.json"
        if not kept.exists():
            self.kit.apply(run)
            seen = self.watch.first(name, has_ended, since=0, timeout=420)
            if seen is None or seen.status["phase"] != "Succeeded" or seen.status["restarts"]:
                raise RuntimeError(f"the unbroken run {name} did not succeed:\n{self.kit.describe(name)}")
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(self.kit.losses(name)))
        return {int(step): loss for step, loss in json.loads(kept.read_text()).items()}

    def recycle_volumes(self) -> None:
        """What deleted runs had is offered anew."""
        with self.machine:
            self.cluster.node.recycle_volumes()


@contextmanager
def opened(name: str = "faults") -> Iterator[Stage]:
    """A stage that is ready; its cluster ends with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as work,
        Cluster(name, gpus=8, lost_node_seconds=LOST_NODE_SECONDS) as cluster,
    ):
        stage = Stage(cluster, Path(work))
        stage.set_up()
        yield stage


def small_run(name: str, *, nodes: int = 1, steps: int = STEPS, dropout: float = 0.1) -> Run:
    """One rank on each of so many nodes; with dropout, so that only an exact resume gives the same losses."""
    run = finetune(name)
    spec = run["spec"]
    spec["parallelism"] = {"nodes": nodes, "gpusPerNode": 1, "strategy": "DDP"}
    spec["training"]["maxSteps"] = steps
    spec["resources"]["memoryPerGpu"] = "2Gi"
    spec["method"]["lora"] = {"rank": 8, "alpha": 32, **({"dropout": dropout} if dropout else {})}
    return run


def has_ended(status: dict[str, Any]) -> bool:
    """Whether the run will do nothing any more."""
    return status.get("phase") in ("Succeeded", "Failed")
