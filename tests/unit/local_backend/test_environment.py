"""What workers on this machine are told."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune_operator.backends.local import Gpu, Machine, missing_secrets
from finetune_operator.backends.local.environment import prepare_environment, push_environment, worker_environment
from finetune_operator.backends.local.folder import AttemptFolder
from finetune_operator.planning import make_plan
from finetune_operator.resource import Qwen3FineTune
from support.runs import prepared, run

GPUS = tuple(Gpu(id=str(index), name="H100", memory_bytes=80 * 2**30) for index in range(4))


def told(
    node: int,
    tmp_path: Path,
    gpus: tuple[Gpu, ...] = GPUS,
    cpus: int = 16,
    environment: Mapping[str, str] | None = None,
) -> dict[str, str]:
    wanted = run(parallelism={"nodes": 2, "gpusPerNode": 2})
    plan = make_plan(wanted, model=prepared().model, dataset=None, gpu_memory_bytes=None)
    folder = AttemptFolder(tmp_path / "1")
    return worker_environment(plan, node, 29555, folder, Machine(gpus=gpus, cpus=cpus), environment or {})


def test_the_nodes_share_the_gpus_in_order(tmp_path: Path) -> None:
    assert [told(node, tmp_path)["CUDA_VISIBLE_DEVICES"] for node in range(2)] == ["0,1", "2,3"]


def test_the_ranks_share_the_processors(tmp_path: Path) -> None:
    assert told(0, tmp_path)["OMP_NUM_THREADS"] == "4"
    assert told(0, tmp_path, cpus=2)["OMP_NUM_THREADS"] == "1"
    assert told(0, tmp_path, environment={"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


def test_without_a_gpu_nothing_is_said_of_devices(tmp_path: Path) -> None:
    assert "CUDA_VISIBLE_DEVICES" not in told(0, tmp_path, gpus=())


def test_the_nodes_meet_on_this_machine(tmp_path: Path) -> None:
    environment = told(1, tmp_path)
    places = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
    assert [environment[name] for name in places] == ["2", "2", "1", "127.0.0.1", "29555"]


@pytest.mark.parametrize(("source", "variable"), [("HuggingFace", "HF_TOKEN"), ("ModelScope", "MODELSCOPE_API_TOKEN")])
def test_a_hubs_token_comes_from_its_own_variable(tmp_path: Path, source: str, variable: str) -> None:
    secret = {"name": "hub", "key": "token"}
    wanted = run(model={"id": "Qwen/Qwen3-8B", "source": source, "tokenSecret": secret})
    assert variable in missing_secrets(wanted, {})[0]
    assert missing_secrets(wanted, {variable: "t0ken"}) == ()
    assert prepare_environment(wanted, tmp_path, {variable: "t0ken"})["FINETUNE_HUB_TOKEN"] == "t0ken"


def test_the_keys_of_a_store_come_from_its_own_tools_variables(tmp_path: Path) -> None:
    pair = {"accessKeySecret": {"name": "s3", "key": "id"}, "secretKeySecret": {"name": "s3", "key": "secret"}}
    store = {"source": "S3", "url": "s3://bucket/rows.jsonl", "s3": pair}
    wanted = run(model={"id": "Qwen/Qwen3-8B"}, dataset={"mix": [{"path": "rows.json"}, store]})
    own = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    assert [line.partition(":")[0] for line in missing_secrets(wanted, {})] == [
        "spec.dataset.mix[1].s3.accessKeySecret",
        "spec.dataset.mix[1].s3.secretKeySecret",
    ]
    assert missing_secrets(wanted, own) == ()
    told = prepare_environment(wanted, tmp_path, own)
    assert (told["FINETUNE_DATASET_1_ACCESS_KEY"], told["FINETUNE_DATASET_1_SECRET_KEY"]) == ("me", "s3cret")


def test_a_run_without_secrets_is_told_no_token(tmp_path: Path) -> None:
    assert "FINETUNE_HUB_TOKEN" not in prepare_environment(run(model={"id": "Qwen/Qwen3-8B"}), tmp_path, {})


def pushing(hub: str) -> Qwen3FineTune:
    push = {"hub": hub, "repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}
    return run(model={"id": "Qwen/Qwen3-8B"}, output={"push": push})


@pytest.mark.parametrize(("hub", "variable"), [("HuggingFace", "HF_TOKEN"), ("ModelScope", "MODELSCOPE_API_TOKEN")])
def test_the_token_that_may_write_comes_from_its_own_variable_first(tmp_path: Path, hub: str, variable: str) -> None:
    wanted = pushing(hub)
    (missing,) = missing_secrets(wanted, {})
    assert missing.startswith("spec.output.push.tokenSecret: ")
    assert f"FINETUNE_PUSH_TOKEN or {variable}" in missing
    for environment, token in (
        ({variable: "reads"}, "reads"),
        ({"FINETUNE_PUSH_TOKEN": "writes"}, "writes"),
        ({variable: "reads", "FINETUNE_PUSH_TOKEN": "writes"}, "writes"),
    ):
        assert missing_secrets(wanted, environment) == ()
        assert push_environment(wanted, tmp_path, environment)["FINETUNE_PUSH_TOKEN"] == token


def test_no_other_process_sees_the_token_that_may_write(tmp_path: Path) -> None:
    environment = {"FINETUNE_PUSH_TOKEN": "writes", "PATH": "/bin"}
    preparing = prepare_environment(pushing("HuggingFace"), tmp_path, environment)
    training = told(0, tmp_path, environment=environment)
    assert preparing["PATH"] == training["PATH"] == "/bin"
    assert "writes" not in {*preparing.values(), *training.values()}
