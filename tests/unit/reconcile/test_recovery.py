"""What the next attempt is really started with, and that a crash at any moment changes nothing about it."""

import asyncio
import dataclasses
from typing import Any

from finetune_contract import ExitCode, RunConfig
from finetune_operator.observation import Attempt, WorkerState
from finetune_operator.settings import Limits, Settings
from finetune_operator.status import Phase
from support.fake_cluster import CrashError, FakeCluster
from support.runs import body, done_outcome, failed_outcome, preparation, there, worker

FAILED = WorkerState.FAILED
FIXED: dict[str, Any] = {"nodes": 2, "microBatch": 8, "strategy": "DDP", "activationCheckpointing": "None"}
ENDS: dict[int, dict[str, Any]] = {
    1: {"outcome": failed_outcome(ExitCode.OUT_OF_MEMORY, "OutOfMemory")},
    2: {"reason": "OOMKilled", "exit_code": 137},
    3: {"exit_code": 137, "node": "bad"},
    4: {"outcome": failed_outcome(ExitCode.OUT_OF_MEMORY, "OutOfMemory")},
}
"""How the first worker of each attempt ends; the fifth attempt trains to the end."""


def ended(attempt: Attempt) -> Attempt:
    """What becomes of an attempt."""
    if attempt.number in ENDS:
        workers = (worker(0, FAILED, **ENDS[attempt.number]), worker(1, FAILED, exit_code=75))
        return dataclasses.replace(attempt, workers=workers, is_failed=True)
    done = worker(0, WorkerState.SUCCEEDED, outcome=done_outcome())
    return dataclasses.replace(attempt, workers=(done, worker(1, WorkerState.SUCCEEDED)))


def played(crash_after: int | None = None) -> FakeCluster:
    """The whole story, with a crash after that many writes."""
    recovery = {"onOutOfMemory": ["MicroBatch", "ShardMore"]}
    resource = body(parallelism=FIXED, recovery=recovery, training={"globalBatch": {"samples": 16}})
    cluster = FakeCluster(resource, crash_after=crash_after)
    cluster.settings = Settings(limits=Limits(max_memory_per_gpu="128Gi"))
    for _ in range(60):
        try:
            result = asyncio.run(cluster.one_pass())
        except CrashError:
            continue
        if result.next_look_seconds is None:
            break
        if cluster.preparation is not None:
            cluster.preparation = preparation(created_at=cluster.preparation.created_at)
        cluster.attempts = {number: ended(attempt) for number, attempt in cluster.attempts.items()}
        cluster.now += 20
    return cluster


def told(cluster: FakeCluster) -> dict[int, tuple[RunConfig, str, tuple[str, ...]]]:
    """What every attempt was told, its host memory, and the nodes that it kept away from."""
    return {
        number: (each.config, each.run.spec.resources.memory_per_gpu, each.avoided_nodes)
        for number, each in cluster.told.items()
    }


def shape(config: RunConfig) -> tuple[int, int, int]:
    """Micro-batch, accumulation, global batch."""
    return config.batch.micro_sequences, config.batch.accumulation_steps, config.batch.global_sequences


def test_the_next_attempt_runs_with_what_was_decided() -> None:
    cluster = played()
    assert cluster.status.phase is Phase.SUCCEEDED
    configs, memory, avoided = zip(*(told(cluster)[number] for number in range(1, 6)), strict=True)
    assert [shape(config) for config in configs] == [(8, 1, 16), (4, 2, 16), (4, 2, 16), (4, 2, 16), (2, 4, 16)]
    assert memory == ("64Gi", "64Gi", "96Gi", "96Gi", "96Gi")
    assert avoided == ((), (), (), ("bad",), ("bad",))
    records = cluster.status.attempts
    assert [record.remedy for record in records] == ["MicroBatch", "HostMemory", None, "MicroBatch", None]
    assert [record.decision for record in records] == ["Remedy", "Remedy", "Retry", "Remedy", "Finish"]
    assert (cluster.status.restarts, cluster.status.failures) == (4, 1)
    assert [each.after_attempt for each in there(cluster.status.recovery).remedies] == [1, 2, 4]
    assert cluster.events.count("Remedied") == 3


def test_a_crash_after_any_write_decides_the_same_remedies() -> None:
    unbroken = played()
    for crash_after in range(1, len(unbroken.writes) + 1):
        cluster = played(crash_after)
        assert told(cluster) == told(unbroken), crash_after
        assert cluster.status.recovery == unbroken.status.recovery, crash_after
        assert cluster.status.phase is Phase.SUCCEEDED, crash_after
