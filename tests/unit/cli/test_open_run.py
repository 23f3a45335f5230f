"""A run on this machine: what it may go on from, and what is refused before anything starts."""

from pathlib import Path

import pytest

from finetune_operator.backends.local import Gpu, LocalBackend, Machine
from finetune_operator.backends.local.machine import visible
from finetune_operator.cli.documents import Document, read_documents
from finetune_operator.cli.open_run import RunRefusedError, held, opened, with_push_token, with_workers
from finetune_operator.lifecycle import text
from finetune_operator.status import ArtifactStatus, AttemptStatus, FailureStatus, Phase, PushStatus, Status
from support.runs import START, run, there

GPUS = tuple(Gpu(id=str(index), name="H100", memory_bytes=80 * 2**30) for index in range(3))
CPU_ONLY = Machine(gpus=(), cpus=8)
TOKEN = {"HF_TOKEN": "hf_secret"}
PUSH = {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}

YAML = """\
apiVersion: finetune.qwen3.io/v1alpha1
kind: Qwen3FineTune
metadata: {name: huanhuan}
spec:
  model: {id: Qwen/Qwen3-8B}
  dataset: {path: rows.json}
  parallelism: {gpusPerNode: 4}
"""


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(
        tmp_path / "runs", inputs_dir=tmp_path, cache_dir=tmp_path / "cache", machine=CPU_ONLY, environment={}
    )


@pytest.fixture
def document(tmp_path: Path) -> Document:
    (tmp_path / "run.yaml").write_text(YAML)
    return read_documents(tmp_path / "run.yaml")[0]


def remembered(backend: LocalBackend, status: Status) -> None:
    """The run's folder knows this status."""
    opened(run(), backend, TOKEN)
    backend.folder(run()).status_file.write_text(status.model_dump_json(by_alias=True, exclude_none=True))


ATTEMPT = AttemptStatus(number=1, started_at=text.timestamp(START), cause="Unexpected", decision="GiveUp")


def failed(*attempts: AttemptStatus) -> Status:
    failure = FailureStatus(reason="Unexpected", message="it broke", observed_generation=1)
    return Status(
        phase=Phase.FAILED, attempts=attempts, failure=failure, failures=3, completion_time=text.timestamp(START)
    )


def test_a_run_keeps_its_uid_from_command_to_command(backend: LocalBackend) -> None:
    first, second = opened(run(), backend, TOKEN), opened(run(), backend, TOKEN)
    assert first.run.metadata.uid == second.run.metadata.uid != ""


def test_a_run_that_failed_in_training_goes_on_with_a_fresh_budget(backend: LocalBackend) -> None:
    remembered(backend, failed(ATTEMPT))
    earlier = opened(run(), backend, TOKEN).earlier
    assert (earlier.failure, earlier.failures, len(earlier.attempts)) == (None, 0, 1)


def test_a_run_that_failed_before_training_begins_anew(backend: LocalBackend) -> None:
    remembered(backend, failed())
    assert opened(run(), backend, TOKEN).earlier == Status()


def test_what_is_trained_cannot_change_under_way(backend: LocalBackend) -> None:
    remembered(backend, Status(attempts=(ATTEMPT,)))
    with pytest.raises(RunRefusedError, match=r"spec\.training\.seed was 42 and is 7"):
        opened(run(training={"seed": 7}), backend, TOKEN)


def test_how_it_is_run_can_change_under_way(backend: LocalBackend) -> None:
    remembered(backend, Status(attempts=(ATTEMPT,)))
    opened(run(recovery={"maxRestarts": 9}, scheduling={"priorityClass": "low"}), backend, TOKEN)


def test_where_it_is_pushed_can_change_at_any_time_and_what_is_made_cannot(backend: LocalBackend) -> None:
    remembered(backend, Status(attempts=(ATTEMPT,)))
    opened(run(output={"push": PUSH}), backend, TOKEN)
    opened(run(output={"push": PUSH | {"repository": "us/huanhuan"}}), backend, TOKEN)
    opened(run(), backend, TOKEN)
    with pytest.raises(RunRefusedError, match=r"spec\.output\.mergeAdapter was False and is True"):
        opened(run(output={"mergeAdapter": True}), backend, TOKEN)


def test_a_push_that_failed_is_tried_again_by_the_next_command(backend: LocalBackend) -> None:
    push = PushStatus(
        number=1, target="t", request="r", started_at=text.timestamp(START), cause="UserError", decision="GiveUp"
    )
    adapter = ArtifactStatus(kind="Adapter", path="/adapter", digest="sha256:1", bytes=1)
    done = ATTEMPT.model_copy(update={"cause": "Done", "decision": "Finish"})
    remembered(backend, failed(done).model_copy(update={"artifacts": (adapter,), "push": push}))
    earlier = opened(run(output={"push": PUSH}), backend, TOKEN).earlier
    assert (earlier.failure, earlier.completion_time, earlier.artifacts) == (None, None, (adapter,))
    assert there(earlier.push).decision == "RetryUncounted"
    assert earlier.attempts == (done,), "nothing is trained again"


def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    given = {"FINETUNE_PUSH_TOKEN": "other", "PATH": "/bin"}
    assert with_push_token(given, file) == {"FINETUNE_PUSH_TOKEN": "t0ken", "PATH": "/bin"}
    assert with_push_token(given, None) == given
    file.write_text("\n")
    with pytest.raises(RunRefusedError, match=r"--push-token .*token: the file is empty"):
        with_push_token({}, file)
    with pytest.raises(RunRefusedError, match=r"--push-token .*none: cannot be read"):
        with_push_token({}, tmp_path / "none")


def test_before_training_everything_can_change(backend: LocalBackend) -> None:
    opened(run(), backend, TOKEN)
    assert opened(run(training={"seed": 7}), backend, TOKEN).run.spec.training.seed == 7


def test_a_secret_is_read_from_the_hubs_own_variable(backend: LocalBackend) -> None:
    with pytest.raises(RunRefusedError, match=r"spec\.model\.tokenSecret: .* HF_TOKEN, and it is not set"):
        opened(run(), backend, {})


def test_two_commands_cannot_look_after_the_same_run(backend: LocalBackend) -> None:
    folder = backend.folder(run())
    with held(folder), pytest.raises(RunRefusedError, match="another qft"), held(folder):
        pass


def test_a_suspended_resource_is_not_run(backend: LocalBackend) -> None:
    with pytest.raises(RunRefusedError, match="suspend"):
        opened(run(suspend=True), backend, TOKEN)


def test_without_a_gpu_the_ranks_are_cpu_workers(document: Document) -> None:
    assert with_workers(document, None, CPU_ONLY).spec.parallelism.world_size == 4


def test_fewer_gpus_than_asked_for_are_refused_with_the_legal_numbers(document: Document) -> None:
    with pytest.raises(RunRefusedError, match=r"4 GPUs are asked for, and this machine has 3; with --workers 1, 2 the"):
        with_workers(document, None, Machine(gpus=GPUS, cpus=8))


def test_workers_keeps_the_global_batch(document: Document) -> None:
    smaller = with_workers(document, 2, Machine(gpus=GPUS, cpus=8))
    assert (smaller.spec.parallelism.world_size, smaller.spec.training.global_batch.samples) == (2, 16)


def test_a_number_of_workers_that_does_not_divide_the_batch_is_refused(document: Document) -> None:
    with pytest.raises(RunRefusedError, match=r"--workers 3: .*16"):
        with_workers(document, 3, Machine(gpus=GPUS, cpus=8))


@pytest.mark.parametrize(("wish", "seen"), [(None, "012"), ("2,0", "20"), ("", ""), ("7", "")])
def test_hidden_gpus_are_not_used(wish: str | None, seen: str) -> None:
    assert "".join(gpu.id for gpu in visible(GPUS, wish)) == seen
