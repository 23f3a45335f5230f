"""What the trainer is told, as a file: an immutable ConfigMap whose name follows from its content."""

import hashlib

from finetune_contract import PrepareConfig, PushConfig, RunConfig
from finetune_contract.paths import PREPARE_FILE, PUSH_FILE, RUN_FILE
from finetune_operator import names
from finetune_operator.manifests.metadata import Manifest, object_metadata
from finetune_operator.resource import Qwen3FineTune

Config = PrepareConfig | RunConfig | PushConfig


def config_map(run: Qwen3FineTune, config: Config) -> Manifest:
    """`config` for the pods that mount it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": object_metadata(run, config_map_name(run, config)),
        "immutable": True,
        "data": {config_file(config): _content(config)},
    }


def config_map_name(run: Qwen3FineTune, config: Config) -> str:
    """Two passes over the same plan name the same object; another plan names another, so none is ever changed."""
    digest = hashlib.sha256(f"{config_file(config)}\n{_content(config)}".encode()).hexdigest()
    return names.config_map(run.metadata.name, digest)


def config_file(config: Config) -> str:
    """Name of the file in the pod."""
    if isinstance(config, PushConfig):
        return PUSH_FILE
    return RUN_FILE if isinstance(config, RunConfig) else PREPARE_FILE


def _content(config: Config) -> str:
    return config.model_dump_json(indent=2)
