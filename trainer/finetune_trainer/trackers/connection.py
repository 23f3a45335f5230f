"""What the trackers' files have in common: accelerate's tracker classes, opened for one run over all its attempts."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from finetune_contract import RunConfig

_STATE_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Connection:
    """An open tracker."""

    tracker: Any
    """One of accelerate.tracking."""
    url: str | None = None
    """Where a person sees the run."""


def prepare_accelerate() -> None:
    """accelerate's trackers log through its state, which is made here once, without a device of its own."""
    from accelerate import PartialState

    with _STATE_LOCK:
        threads = torch.get_num_threads()
        PartialState(cpu=True)
        torch.set_num_threads(threads)  # it takes the liberty to choose another number


def run_id(run: RunConfig) -> str:
    """The same for every attempt: from the resource's uid, in the letters that every tracker takes."""
    return re.sub(r"[^a-z0-9-]", "-", run.run.uid.lower())


def hyperparameters(run: RunConfig) -> dict[str, bool | int | float | str]:
    """The run's settings by dotted path; what differs between attempts or machines is left out."""
    told = run.model_dump(
        mode="json", exclude={"attempt", "version", "progress_port", "grace_seconds", "tracking", "output_dir"}
    )
    return dict(_leaves("", told))


def _leaves(path: str, value: Any) -> list[tuple[str, bool | int | float | str]]:
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in _leaves(f"{path}.{key}" if path else key, inner)]
    if value is None:
        return []
    return [(path, value if isinstance(value, bool | int | float | str) else str(value))]
