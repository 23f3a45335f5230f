"""A push on this machine: one process, found again by its mark, told what to push and where."""

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import PushConfig
from finetune_operator.backends.local import LocalBackend, Machine, observe, processes
from finetune_operator.observation import Push, WorkerState
from finetune_operator.planning import push_config, push_request, push_target
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.status import ArtifactStatus
from support.artifacts import exported
from support.runs import run, there

PUSH: dict[str, Any] = {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Qwen3FineTune]:
    """A run of this test's own."""
    wanted = run(output={"push": PUSH})
    uid = f"{tmp_path}"
    yield wanted.model_copy(update={"metadata": wanted.metadata.model_copy(update={"uid": uid})})
    processes.kill_all(f"{uid}/")


@pytest.fixture
def config(asked: Qwen3FineTune, tmp_path: Path) -> PushConfig:
    """What is to be pushed, lying on this machine."""
    made = exported(tmp_path / "adapter", "Adapter")
    return push_config(asked, [ArtifactStatus.model_validate(made.model_dump())])


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A hub that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


@pytest.fixture
def backend(tmp_path: Path, silent: socket.socket) -> LocalBackend:
    """One whose processes find the silent hub."""
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "no_proxy": "127.0.0.1"}
    environment = os.environ | hub | {"HF_HUB_DISABLE_XET": "1", "FINETUNE_PUSH_TOKEN": "t0ken"}
    return LocalBackend(
        tmp_path / "runs",
        inputs_dir=tmp_path,
        cache_dir=tmp_path / "cache",
        machine=Machine(gpus=(), cpus=2),
        environment=environment,
    )


def seen(backend: LocalBackend, asked: Qwen3FineTune) -> Push | None:
    return asyncio.run(backend.observe(asked)).push


async def ended(backend: LocalBackend, asked: Qwen3FineTune) -> Push:
    """The push, once it has ended."""
    async with asyncio.timeout(60):
        while (push := there((await backend.observe(asked)).push)).is_alive:
            await asyncio.sleep(0.05)
    return push


def test_its_outcome_and_what_it_was_told_are_seen(
    backend: LocalBackend, asked: Qwen3FineTune, config: PushConfig
) -> None:
    assert seen(backend, asked) is None
    (Path(config.artifacts[0].path) / "adapter_model.safetensors").write_bytes(b"changed since")
    asyncio.run(backend.start_push(asked, config, 1))
    push = asyncio.run(ended(backend, asked))
    wanted = there(asked.spec.output.push)
    assert (push.number, push.target, push.request) == (1, push_target(asked, wanted), push_request(wanted))
    assert (push.state, push.exit_code) == (WorkerState.FAILED, 64)
    assert there(there(push.outcome).failure).reason == "ArtifactChanged"


def test_a_push_is_started_once_and_stopped_whole(
    backend: LocalBackend, asked: Qwen3FineTune, config: PushConfig, silent: socket.socket
) -> None:
    asyncio.run(backend.start_push(asked, config, 1))
    connection, _ = silent.accept()
    asyncio.run(backend.start_push(asked, config, 1))
    mark = observe.push_mark(asked.metadata.uid, 1)
    assert len(processes.marked(mark)) == 2, "the push and its supervisor"
    assert there(seen(backend, asked)).state is WorkerState.RUNNING
    asyncio.run(backend.stop_push(asked, 1))
    connection.close()
    stopped = there(seen(backend, asked))
    assert (stopped.is_alive, stopped.exit_code, stopped.outcome) == (False, 137, None)
    assert not processes.marked(mark)


def test_the_newest_push_counts(backend: LocalBackend, asked: Qwen3FineTune, config: PushConfig) -> None:
    for number in (2, 10):
        asyncio.run(backend.start_push(asked, config, number))
    assert there(seen(backend, asked)).number == 10


def test_stopping_one_push_leaves_those_alone_whose_number_begins_alike() -> None:
    assert not observe.push_mark("uid", 11).startswith(observe.push_mark("uid", 1))
    assert not observe.push_mark("uid", 1).startswith(observe.attempt_mark("uid", 1))


def test_the_token_is_in_no_file_of_the_run(
    backend: LocalBackend, asked: Qwen3FineTune, config: PushConfig, silent: socket.socket, tmp_path: Path
) -> None:
    asyncio.run(backend.start_push(asked, config, 1))
    silent.accept()[0].close()
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert any(each.name == "push.json" and json.loads(each.read_text())["target"] for each in files)
    assert not any("t0ken" in each.read_text(errors="replace") for each in files)
