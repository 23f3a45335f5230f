"""The Backend of one machine: a worker process per node of the run, state in files, and no Kubernetes.

Every node of the run becomes a launcher with its ranks, placed by the same PET_* variables as in a pod; the nodes meet
on 127.0.0.1. GPUs are dealt out to them in order, and without any the ranks compute on the CPU.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune_contract import PrepareConfig, PushConfig, RunConfig
from finetune_contract.paths import PREPARE_FILE, PUSH_FILE
from finetune_operator.backends import Addressed
from finetune_operator.backends.local import observe, processes
from finetune_operator.backends.local.environment import prepare_environment, push_environment, worker_environment
from finetune_operator.backends.local.folder import AttemptFolder, RunFolder, write_json, write_text
from finetune_operator.backends.local.machine import Machine
from finetune_operator.backends.local.supervisor import PID_FILE
from finetune_operator.observation import Observation
from finetune_operator.planning import Locations, Plan, push_request, push_target
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.status import Status


class LocalBackend:
    """Keeps the runs below one folder of this machine."""

    def __init__(
        self,
        runs_dir: Path,
        *,
        inputs_dir: Path,
        cache_dir: Path,
        machine: Machine,
        environment: Mapping[str, str],
    ) -> None:
        """`inputs_dir` is what Volume sources are relative to; `environment` is what workers inherit."""
        self._runs_dir = runs_dir.absolute()
        self._inputs_dir = inputs_dir.absolute()
        self._cache_dir = cache_dir.absolute()
        self._machine = machine
        self._environment = dict(environment)
        self.on_event: Callable[[str, str], None] = _nobody
        """Told of every event: reason and message."""

    def folder(self, run: Addressed) -> RunFolder:
        """Where `run` keeps everything."""
        return RunFolder(self._runs_dir / run.metadata.name)

    def locations(self, run: Qwen3FineTune) -> Locations:
        """Paths of this machine; the progress port is picked by the trainer."""
        return Locations(
            cache_dir=str(self._cache_dir),
            inputs_dir=str(self._inputs_dir),
            output_dir=str(self.folder(run).path),
            progress_port=0,
        )

    async def observe(self, run: Qwen3FineTune) -> Observation:
        """What files and processes show; rank 0 is asked for its progress."""
        return await asyncio.to_thread(self._observe, run)

    async def start_preparation(self, run: Qwen3FineTune, config: PrepareConfig) -> None:
        """The preparation runs, as a process."""
        folder = self.folder(run).prepare
        if (folder / "started.json").exists():
            return
        mark = observe.prepare_mark(run.metadata.uid)
        processes.kill_all(mark)
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        write_text(folder / PREPARE_FILE, config.model_dump_json(indent=2))
        command = [sys.executable, "-m", "finetune_trainer.prepare", str(folder / PREPARE_FILE)]
        processes.start(command, folder, prepare_environment(run, folder, self._environment), mark)
        write_json(folder / "started.json", {"at": time.time()})

    async def clear_preparation(self, run: Qwen3FineTune) -> None:
        """No process of the preparation is left, and nothing tells of it but its log."""
        await asyncio.to_thread(self.forget_preparation, self.folder(run), run.metadata.uid)

    async def start_attempt(
        self,
        run: Qwen3FineTune,
        plan: Plan,
        config: RunConfig,
        *,
        avoided_nodes: tuple[str, ...],  # noqa: ARG002
    ) -> None:
        """A launcher runs for every node of the attempt. One that was begun and not finished is begun anew."""
        folder = self.folder(run).attempt(config.attempt)
        if folder.started_file.exists():
            return
        mark = observe.attempt_mark(run.metadata.uid, config.attempt)
        processes.kill_all(mark)
        write_text(folder.config_file, config.model_dump_json(indent=2))
        port = _free_port()
        for node in range(plan.nodes):
            self._start_worker(plan, node, port, folder, mark)
        write_json(folder.started_file, {"at": time.time(), "num_nodes": plan.nodes})

    async def stop_attempt(self, run: Qwen3FineTune, number: int, *, force: bool) -> None:
        """SIGTERM to every launcher, once; with `force`, or when all have ended, the attempt is gone."""
        folder = self.folder(run).attempt(number)
        mark = observe.attempt_mark(run.metadata.uid, number)
        alive = processes.marked(mark)
        if force or not alive:
            await asyncio.to_thread(processes.kill_all, mark)
            write_text(folder.removed_file, "")
        elif not folder.stopping_file.exists():
            write_text(folder.stopping_file, "")
            for supervisor in folder.path.glob(f"node-*/{PID_FILE}"):
                if (process_id := int(supervisor.read_text())) in alive:
                    processes.terminate(process_id)

    async def start_push(self, run: Qwen3FineTune, config: PushConfig, number: int) -> None:
        """The push runs, as a process."""
        folder = self.folder(run).push(number)
        if (folder / "started.json").exists():
            return
        push = run.spec.output.push
        assert push is not None, "a push is asked for"
        mark = observe.push_mark(run.metadata.uid, number)
        processes.kill_all(mark)
        write_text(folder / PUSH_FILE, config.model_dump_json(indent=2))
        command = [sys.executable, "-m", "finetune_trainer.push", str(folder / PUSH_FILE)]
        observe.forget(folder)
        processes.start(command, folder, push_environment(run, folder, self._environment), mark)
        told = {"target": push_target(run, push), "request": push_request(push)}
        write_json(folder / "started.json", {"at": time.time(), **told})

    async def stop_push(self, run: Qwen3FineTune, number: int) -> None:
        """No process of the push is left."""
        await asyncio.to_thread(processes.kill_all, observe.push_mark(run.metadata.uid, number))

    async def publish_status(self, run: Addressed, status: Status) -> None:
        """`status` stands in the run's folder."""
        write_json(self.folder(run).status_file, status.to_body())

    async def publish_event(self, run: Addressed, *, reason: str, message: str, is_warning: bool) -> None:
        """The run's log of events has it, and the listener is told."""
        with open(self.folder(run).events_file, "a", encoding="utf-8") as events:
            kind = "Warning" if is_warning else "Normal"
            events.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {kind} {reason}: {message}\n")
        self.on_event(reason, message)

    async def delete_run(self, run: Qwen3FineTune) -> None:
        """The run is forgotten; what it left behind stays."""
        self.folder(run).status_file.unlink(missing_ok=True)
        self.folder(run).resource_file.unlink(missing_ok=True)

    @staticmethod
    def forget_preparation(folder: RunFolder, uid: str) -> None:
        """`clear_preparation` of the run with this folder and uid."""
        processes.kill_all(observe.prepare_mark(uid))
        observe.forget(folder.prepare)
        (folder.prepare / "started.json").unlink(missing_ok=True)

    def _observe(self, run: Qwen3FineTune) -> Observation:
        folder, uid = self.folder(run), run.metadata.uid
        marks = set(processes.marked(f"{uid}/").values())
        attempts = tuple(observe.attempt(number, each, marks, uid) for number, each in folder.attempts())
        return Observation(
            preparation=observe.preparation(folder, marks, uid),
            attempts=attempts,
            push=observe.push(folder, marks, uid),
            gpu_memory_bytes=self._machine.gpu_memory_bytes,
        )

    def _start_worker(self, plan: Plan, node: int, port: int, folder: AttemptFolder, mark: str) -> None:
        environment = worker_environment(plan, node, port, folder, self._machine, self._environment)
        command = [sys.executable, "-m", "finetune_trainer.launch", str(folder.config_file)]
        observe.forget(folder.node(node))
        processes.start(command, folder.node(node), environment, f"{mark}{node}")


def _nobody(_reason: str, _message: str) -> None:
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
