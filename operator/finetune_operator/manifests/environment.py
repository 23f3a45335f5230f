"""The environment of a pod: our defaults, then the admin's wishes, then what must not be changed."""

from collections.abc import Mapping

from finetune_contract.paths import (
    CACHE_DIR,
    PUSH_TOKEN_ENV,
    RENDEZVOUS_PORT,
    TERMINATION_FILE_ENV,
    TRACKER_SECRET_ENV,
)
from finetune_operator.manifests.metadata import Manifest
from finetune_operator.manifests.volumes import TEMPORARY_DIR
from finetune_operator.names import attempt_job, workers_service
from finetune_operator.planning import input_secrets
from finetune_operator.resource import Qwen3FineTune, SecretKeyRef
from finetune_operator.settings import Fabric, Settings

TERMINATION_FILE = "/dev/termination-log"

# The user id has no entry in the image's passwd file, and torch asks getpass for a name: hence USER and LOGNAME.
_ANYWHERE = {
    "HOME": TEMPORARY_DIR,
    "USER": "trainer",
    "LOGNAME": "trainer",
    "TMPDIR": TEMPORARY_DIR,
    "XDG_CACHE_HOME": f"{TEMPORARY_DIR}/cache",
    "PYTHONUNBUFFERED": "1",
}
_PREPARING = {
    # Beside what they fill, so that an interrupted download is resumed, and /tmp need not hold a model.
    "HF_HOME": str(CACHE_DIR / "huggingface"),
    "MODELSCOPE_CACHE": str(CACHE_DIR / "modelscope"),
}
_PUSHING = {"HF_HOME": f"{TEMPORARY_DIR}/huggingface", "MODELSCOPE_CACHE": f"{TEMPORARY_DIR}/modelscope"}
_TRAINING = {
    "HF_HOME": f"{TEMPORARY_DIR}/huggingface",
    "HF_HUB_OFFLINE": "1",
    "TRITON_CACHE_DIR": f"{TEMPORARY_DIR}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{TEMPORARY_DIR}/inductor",
    "TORCH_EXTENSIONS_DIR": f"{TEMPORARY_DIR}/torch-extensions",
    "NCCL_DEBUG": "WARN",
}


def prepare_environment(run: Qwen3FineTune, settings: Settings) -> list[Manifest]:
    """What opens model and data is here and nowhere else."""
    fixed = [_value(TERMINATION_FILE_ENV, TERMINATION_FILE)]
    fixed += [_secret(secret.variable, secret.key) for secret in input_secrets(run)]
    return _merged(_ANYWHERE | _PREPARING | settings.pods.environment, fixed)


def push_environment(run: Qwen3FineTune, settings: Settings) -> list[Manifest]:
    """The token that may write is here and nowhere else."""
    assert run.spec.output.push is not None, "a push is asked for"
    fixed = [
        _value(TERMINATION_FILE_ENV, TERMINATION_FILE),
        _secret(PUSH_TOKEN_ENV, run.spec.output.push.token_secret),
    ]
    return _merged(_ANYWHERE | _PUSHING | settings.pods.environment, fixed)


def worker_environment(run: Qwen3FineTune, attempt: int, settings: Settings, fabric: Fabric) -> list[Manifest]:
    """Static rendezvous: the launcher reads PET_*; node rank 0 of this very attempt is the master."""
    name, parallelism = run.metadata.name, run.spec.parallelism
    fixed = [
        _value("PET_NNODES", str(parallelism.nodes)),
        _value("PET_NPROC_PER_NODE", str(parallelism.gpus_per_node)),
        _field("PET_NODE_RANK", "metadata.annotations['batch.kubernetes.io/job-completion-index']"),
        _value("PET_MASTER_ADDR", f"{attempt_job(name, attempt)}-0.{workers_service(name)}"),
        _value("PET_MASTER_PORT", str(RENDEZVOUS_PORT)),
        _value(TERMINATION_FILE_ENV, TERMINATION_FILE),
    ]
    fixed += [_secret(TRACKER_SECRET_ENV[field], key) for field, key in run.spec.tracking.secrets.items()]
    return _merged(_ANYWHERE | _TRAINING | settings.pods.environment | fabric.environment, fixed)


def _merged(values: Mapping[str, str], fixed: list[Manifest]) -> list[Manifest]:
    taken = {entry["name"] for entry in fixed}
    return [*(_value(name, value) for name, value in values.items() if name not in taken), *fixed]


def _value(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}


def _field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _secret(name: str, key: SecretKeyRef) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": key.name, "key": key.key}}}
