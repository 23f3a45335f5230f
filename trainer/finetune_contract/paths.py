"""Mount points, file names, ports and environment names that both halves rely on."""

from pathlib import PurePosixPath

CONFIG_DIR = PurePosixPath("/config")
"""Where the ConfigMap is mounted."""
PREPARE_FILE = "prepare.json"
RUN_FILE = "run.json"
PUSH_FILE = "push.json"

CACHE_DIR = PurePosixPath("/cache")
"""Shared between runs: models, token caches, compiled kernels. Content-addressed; safe to share."""
INPUTS_DIR = PurePosixPath("/inputs")
"""Read-only volume of the user's own models and datasets."""
OUTPUT_DIR = PurePosixPath("/output")
"""The run's own results; a run writes below OUTPUT_DIR/<run name> alone."""

CHECKPOINTS = "checkpoints"
"""Below a run's output folder: one folder `step-00000500` per complete checkpoint."""
ADAPTER = "adapter"
MERGED_MODEL = "merged"
FULL_MODEL = "model"
ATTEMPTS = "attempts"
"""Below a run's output folder: one folder per attempt, with what is worth keeping of it (losses, stacks)."""
LOSSES_FILE = "losses.jsonl"
"""In an attempt folder: a line per step {"step", "loss", "grad_norm", "learning_rate", "tokens"} at full precision."""

EXPERTS_FILE = "experts.jsonl"
"""In an attempt folder of a mixture of experts: now and then a line {"step", "shares": per layer and expert}."""

STACKS = "stacks"
"""In the folder of an attempt that hung: a file `rank-<r>.txt` per rank with what it was in the middle of."""

PROGRESS_PORT = 29501
"""Rank 0 serves /progress and /metrics here in a pod."""
RENDEZVOUS_PORT = 29500
"""torchrun's default, fixed so that a NetworkPolicy can name it."""

TERMINATION_FILE_ENV = "FINETUNE_TERMINATION_FILE"
"""Where an Outcome is written; in a pod /dev/termination-log."""
PROGRESS_PORT_FILE_ENV = "FINETUNE_PROGRESS_PORT_FILE"
"""If set, rank 0 writes the port it serves on into this file: how a laptop finds a port that was picked at random."""
HUB_TOKEN_ENV = "FINETUNE_HUB_TOKEN"  # noqa: S105 - the name of a variable
"""Token for a gated model; set in the preparation's pod alone."""
PUSH_TOKEN_ENV = "FINETUNE_PUSH_TOKEN"  # noqa: S105 - the name of a variable
"""Token that may write to the hub; set in the pod that pushes, and nowhere else."""


def dataset_token_env(number: int) -> str:
    """Variable with the hub token of the dataset's source `number`; set in the preparation's pod alone.

    Training sources count from 0 in their order, and the validation's own source follows.
    """
    return f"FINETUNE_DATASET_{number}_TOKEN"


def dataset_access_key_env(number: int) -> str:
    """Variable with the S3 access key id of the dataset's source `number`; see `dataset_token_env`."""
    return f"FINETUNE_DATASET_{number}_ACCESS_KEY"


def dataset_secret_key_env(number: int) -> str:
    """Variable with the S3 secret access key of the dataset's source `number`; see `dataset_token_env`."""
    return f"FINETUNE_DATASET_{number}_SECRET_KEY"


TRACKER_SECRET_ENV = {
    "swanlab.apiKeySecret": "SWANLAB_API_KEY",
    "wandb.apiKeySecret": "WANDB_API_KEY",
    "mlflow.tokenSecret": "MLFLOW_TRACKING_TOKEN",
}
"""The trackers' own variables, by the field of `tracking` that names the Secret."""


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint taken after `step` steps; sorts by step."""
    return f"step-{step:08d}"
