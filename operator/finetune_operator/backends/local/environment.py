"""The environment of worker processes on this machine: the person's own, and what a pod would be told.

Secrets of the resource name objects of a cluster. On a laptop their values come from the variables that the hubs' and
stores' own tools read: HF_TOKEN, MODELSCOPE_API_TOKEN, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and
the trackers' SWANLAB_API_KEY, WANDB_API_KEY and MLFLOW_TRACKING_TOKEN. The token that may write to a hub is taken from
FINETUNE_PUSH_TOKEN first, which only the process that pushes gets to see.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from finetune_contract.paths import (
    PROGRESS_PORT_FILE_ENV,
    PUSH_TOKEN_ENV,
    TERMINATION_FILE_ENV,
    TRACKER_SECRET_ENV,
)
from finetune_operator.backends.local.folder import OUTCOME_FILE, AttemptFolder
from finetune_operator.backends.local.machine import Machine
from finetune_operator.planning import Plan, input_secrets, push_own_variable
from finetune_operator.resource import Qwen3FineTune


def missing_secrets(run: Qwen3FineTune, environment: Mapping[str, str]) -> tuple[str, ...]:
    """A line for every Secret of the resource whose variable is not set here."""
    return tuple(
        f"{field}: on this machine the Secret's value is read from the variable {' or '.join(variables)}, and it is "
        "not set"
        for field, variables in _wanted(run)
        if not any(environment.get(variable) for variable in variables)
    )


def prepare_environment(run: Qwen3FineTune, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What the preparation is told."""
    told = {secret.variable: environment.get(secret.own_variable, "") for secret in input_secrets(run)}
    return {**_without_push_token(environment), **told, TERMINATION_FILE_ENV: str(folder / OUTCOME_FILE)}


def push_environment(run: Qwen3FineTune, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What the push is told: the token that may write, alone of all processes."""
    push = run.spec.output.push
    assert push is not None, "a push is asked for"
    token = environment.get(PUSH_TOKEN_ENV) or environment.get(push_own_variable(push), "")
    return {**environment, PUSH_TOKEN_ENV: token, TERMINATION_FILE_ENV: str(folder / OUTCOME_FILE)}


def worker_environment(
    plan: Plan, node: int, port: int, attempt: AttemptFolder, machine: Machine, environment: Mapping[str, str]
) -> dict[str, str]:
    """What the launcher of node rank `node` is told; the nodes meet at `port` of this machine."""
    ranks = plan.gpus_per_node
    threads = max(1, machine.cpus // (plan.nodes * ranks))
    told = {
        "PET_NNODES": str(plan.nodes),
        "PET_NPROC_PER_NODE": str(ranks),
        "PET_NODE_RANK": str(node),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", str(threads)),
        "HF_HUB_OFFLINE": "1",
        TERMINATION_FILE_ENV: str(attempt.node(node) / OUTCOME_FILE),
        PROGRESS_PORT_FILE_ENV: str(attempt.progress_port_file),
    }
    if machine.gpus:
        mine = machine.gpus[node * ranks : (node + 1) * ranks]
        told["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.id for gpu in mine)
    return {**_without_push_token(environment), **told}


def _without_push_token(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != PUSH_TOKEN_ENV}


def _wanted(run: Qwen3FineTune) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Field of every Secret that the resource names, and the variables of which one has to be set."""
    yield from ((secret.field, (secret.own_variable,)) for secret in input_secrets(run))
    spec = run.spec
    for field in spec.tracking.secrets:
        yield f"spec.tracking.{field}", (TRACKER_SECRET_ENV[field],)
    if spec.output.push is not None:
        yield "spec.output.push.tokenSecret", (PUSH_TOKEN_ENV, push_own_variable(spec.output.push))
