"""Runs on this machine, without Kubernetes."""

from finetune_operator.backends.local.backend import LocalBackend
from finetune_operator.backends.local.environment import missing_secrets
from finetune_operator.backends.local.folder import RunFolder, read_json, write_json
from finetune_operator.backends.local.machine import Gpu, Machine, this_machine

__all__ = ["Gpu", "LocalBackend", "Machine", "RunFolder", "missing_secrets", "read_json", "this_machine", "write_json"]
