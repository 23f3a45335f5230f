"""Resources, reports and observations as tests need them: whole, with the interesting part as an argument."""

from typing import Any, TypeVar

from finetune_contract import (
    Artifact,
    CheckpointReport,
    DatasetReport,
    ExitCode,
    Failure,
    LengthBin,
    ModelFacts,
    Outcome,
    PrepareOutcome,
    Progress,
    Pushed,
    PushOutcome,
    Stage,
    TrainingResult,
)
from finetune_operator.lifecycle import text
from finetune_operator.observation import Attempt, Preparation, Worker, WorkerState
from finetune_operator.resource import Qwen3FineTune, parse_resource

START = 1_700_000_000.0
"""Unix seconds at which the stories of the tests begin."""

STEPS = 100

T = TypeVar("T")


def there(value: T | None) -> T:
    """`value`, which is not None."""
    assert value is not None
    return value


def body(*, generation: int = 1, nodes: int = 2, **spec: Any) -> dict[str, Any]:
    """A whole resource; keyword arguments are blocks of its spec."""
    return {
        "apiVersion": "finetune.qwen3.io/v1alpha1",
        "kind": "Qwen3FineTune",
        "metadata": {
            "name": "huanhuan",
            "namespace": "research",
            "uid": "7c2f",
            "generation": generation,
            "creationTimestamp": text.timestamp(START),
        },
        "spec": {
            "model": {"id": "Qwen/Qwen3-8B", "tokenSecret": {"name": "hub", "key": "token"}},
            "dataset": {"path": "huanhuan.json"},
            "parallelism": {"nodes": nodes, "gpusPerNode": 1},
        }
        | spec,
    }


def run(**arguments: Any) -> Qwen3FineTune:
    """`body`, parsed."""
    return parse_resource(body(**arguments))


def prepared() -> PrepareOutcome:
    """The outcome of a preparation that went well."""
    return PrepareOutcome(
        exit_code=ExitCode.DONE,
        model=ModelFacts(
            hidden_size=4096,
            intermediate_size=12288,
            num_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
            tied_embeddings=False,
        ),
        model_dir="/cache/models/qwen3",
        tokens_dir="/cache/tokens/1234",
        dataset=DatasetReport(
            rows=3729,
            validation_rows=0,
            sequences=1600,
            tokens=265_000,
            supervised_tokens=120_000,
            length_p50=64,
            length_p95=150,
            length_p99=210,
            length_max=612,
            lengths=(LengthBin(up_to=64, rows=1900), LengthBin(up_to=1024, rows=1829)),
            longest_sequence=4096,
            truncated_rows=0,
            dropped_rows=0,
            skipped_rows=0,
            duplicate_rows=112,
            duplicate_ids=0,
            left_out_duplicates=0,
            think_blocks=0,
            packing_efficiency=0.97,
            digest="1234",
        ),
    )


def preparation(state: WorkerState = WorkerState.SUCCEEDED, **fields: Any) -> Preparation:
    """A preparation; with state SUCCEEDED, one that went well."""
    if state is WorkerState.SUCCEEDED:
        fields = {"exit_code": 0, "outcome": prepared()} | fields
    known: dict[str, Any] = {"state": state, "created_at": START}
    return Preparation(**known | fields)


def failed_outcome(code: ExitCode, reason: str = "Broken", **fields: Any) -> Outcome:
    """The outcome of a rank that failed with `code`."""
    fields = {"message": f"{reason} happened"} | fields
    return Outcome(exit_code=code, failure=Failure(exit_code=code, reason=reason, **fields), step=fields.get("step"))


def done_outcome() -> Outcome:
    """The outcome of a run that reached its last step."""
    adapter = Artifact(
        kind="Adapter",
        path="/output/huanhuan/adapter",
        digest="sha256:" + "a" * 64,
        bytes=30_000_000,
        serve="vllm serve Qwen/Qwen3-8B --enable-lora --lora-modules huanhuan=/output/huanhuan/adapter",
    )
    result = TrainingResult(
        steps=STEPS, final_loss=1.25, validation_loss=None, trained_tokens=265_000, artifacts=(adapter,)
    )
    return Outcome(exit_code=ExitCode.DONE, result=result, step=STEPS)


def preempted_outcome(step: int) -> Outcome:
    """The outcome of a rank that saved after `step` and left."""
    return Outcome(exit_code=ExitCode.PREEMPTED, step=step, checkpoint=checkpoint(step), loss=1 / step)


def checkpoint(step: int) -> CheckpointReport:
    """A complete checkpoint."""
    return CheckpointReport(
        step=step, path=f"/output/huanhuan/checkpoints/step-{step:08}", bytes=10, seconds=0.5, blocking_seconds=0.1
    )


def progress(attempt: int, step: int, *, at: float, stage: Stage = Stage.TRAINING, **fields: Any) -> Progress:
    """What rank 0 says after `step`."""
    told = {"epoch": 0.5, "loss": 2.0, "eta_seconds": 4320.0, "tokens_per_second": 1000.4, "total_steps": STEPS}
    return Progress(**told | {"attempt": attempt, "step": step, "stage": stage, "updated_at": at} | fields)


def worker(index: int, state: WorkerState = WorkerState.RUNNING, **fields: Any) -> Worker:
    """One worker; a failed one that says nothing ended with exit code 1."""
    if state is WorkerState.FAILED and "outcome" in fields:
        fields = {"exit_code": int(fields["outcome"].exit_code)} | fields
    known: dict[str, Any] = {"index": index, "name": f"huanhuan-r1-{index}", "state": state, "node": f"node-{index}"}
    return Worker(**known | fields)


def pushed_outcome() -> PushOutcome:
    """The outcome of a push that went well."""
    place = Pushed(kind="Adapter", url="https://huggingface.co/me/huanhuan/tree/main", commit="c" * 40)
    return PushOutcome(exit_code=ExitCode.DONE, pushed=(place,))


def failed_push(code: ExitCode, reason: str) -> PushOutcome:
    """The outcome of a push that failed with `code`."""
    return PushOutcome(exit_code=code, failure=Failure(exit_code=code, reason=reason, message=f"{reason} happened"))


def attempt(*workers: Worker, number: int = 1, **fields: Any) -> Attempt:
    """An attempt with these workers; without any, two that run."""
    workers = workers or (worker(0), worker(1))
    known: dict[str, Any] = {"number": number, "workers": workers, "num_nodes": len(workers), "created_at": START}
    return Attempt(**known | fields)
