"""What a pod sees of volumes: where each lies, and who may write.

Training pods read the cache and never write it: it is shared between runs, so no run may leave code or tokens there for
another. What compilers cache goes below /tmp, is as old as the pod, and is compiled again in the next attempt.
"""

from dataclasses import dataclass

from finetune_contract.paths import CACHE_DIR, CONFIG_DIR, INPUTS_DIR, OUTPUT_DIR, PROGRESS_PORT
from finetune_operator.manifests.claims import cache_claim_name, output_claim_name
from finetune_operator.manifests.config_map import Config, config_file, config_map_name
from finetune_operator.manifests.metadata import Manifest
from finetune_operator.planning import Locations
from finetune_operator.resource import Qwen3FineTune

TEMPORARY_DIR = "/tmp"  # noqa: S108 - a mount of the pod's own
TEMPORARY_SIZE = "20Gi"
"""Compiled kernels and a library's temporary files; a pod that writes more is evicted, and its node is spared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A volume and where it is mounted."""

    volume: Manifest
    mount: Manifest


def pod_locations(run: Qwen3FineTune) -> Locations:
    """Where the trainer finds and leaves things in a pod. Without an inputs volume, Volume sources lie in the cache."""
    return Locations(
        cache_dir=str(CACHE_DIR),
        inputs_dir=str(INPUTS_DIR if run.spec.storage.inputs else CACHE_DIR),
        output_dir=str(OUTPUT_DIR / run.metadata.name),
        progress_port=PROGRESS_PORT,
    )


def prepare_volumes(run: Qwen3FineTune, config: Config) -> list[Mounted]:
    """The preparation fills the cache, and has no business with the output."""
    return [_config(run, config), _cache(run, read_only=False), *_inputs(run), _temporary()]


def push_volumes(run: Qwen3FineTune, config: Config) -> list[Mounted]:
    """What is pushed is read, and nothing else."""
    return [_config(run, config), _output(run, read_only=True), _temporary()]


def worker_volumes(run: Qwen3FineTune, config: Config, shared_memory: str) -> list[Mounted]:
    """Training writes its output; shared memory is for NCCL and data workers, and counts as the pod's memory."""
    return [
        _config(run, config),
        _cache(run, read_only=True),
        *_inputs(run),
        _output(run, read_only=False),
        _temporary(),
        _mounted("shared-memory", {"emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}}, "/dev/shm"),  # noqa: S108
    ]


def _config(run: Qwen3FineTune, config: Config) -> Mounted:
    file = config_file(config)
    source = {"configMap": {"name": config_map_name(run, config), "items": [{"key": file, "path": file}]}}
    return _mounted("config", source, str(CONFIG_DIR), read_only=True)


def _cache(run: Qwen3FineTune, *, read_only: bool) -> Mounted:
    source = {"persistentVolumeClaim": {"claimName": cache_claim_name(run)}}
    return _mounted("cache", source, str(CACHE_DIR), read_only=read_only)


def _output(run: Qwen3FineTune, *, read_only: bool) -> Mounted:
    source = {"persistentVolumeClaim": {"claimName": output_claim_name(run)}}
    return _mounted("output", source, str(OUTPUT_DIR), read_only=read_only)


def _inputs(run: Qwen3FineTune) -> list[Mounted]:
    inputs = run.spec.storage.inputs
    if inputs is None:
        return []
    source = {"persistentVolumeClaim": {"claimName": inputs.claim_name}}
    return [_mounted("inputs", source, str(INPUTS_DIR), read_only=True)]


def _temporary() -> Mounted:
    return _mounted("temporary", {"emptyDir": {"sizeLimit": TEMPORARY_SIZE}}, TEMPORARY_DIR)


def _mounted(name: str, source: Manifest, path: str, *, read_only: bool = False) -> Mounted:
    mount: Manifest = {"name": name, "mountPath": path}
    if read_only:
        mount["readOnly"] = True
    return Mounted(volume={"name": name, **source}, mount=mount)
