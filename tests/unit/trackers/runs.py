"""A run that is tracked, and servers that do not serve."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_contract import RunConfig


def tracked(output: Path, attempt: int = 1, **trackers: Any) -> RunConfig:
    """A run with these trackers."""
    return RunConfig.model_validate(
        {
            "run": {"name": "huanhuan", "namespace": "research", "uid": "0A1b-22_x"},
            "attempt": attempt,
            "model_dir": "/cache/model",
            "tokens_dir": "/cache/tokens",
            "output_dir": str(output),
            "method": {"type": "LoRA", "rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj"]},
            "batch": {"global_sequences": 4, "micro_sequences": 4, "accumulation_steps": 1, "world_size": 1},
            "epochs": 2,
            "optimizer": {"peak_learning_rate": 1e-2},
            "schedule": {"type": "Cosine", "warmup_ratio": 0.1},
            "precision": "Bf16",
            "parallelism": {"type": "DDP"},
            "activation_checkpointing": "None",
            "checkpoint": {"every_steps": 5, "keep": 9},
            "merge_adapter": False,
            "seed": 7,
            "progress_port": 0,
            "grace_seconds": 30,
            "tracking": trackers,
        }
    )


@contextmanager
def hanging_server() -> Iterator[str]:
    """A server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for each in taken:
                each.close()


def refusing_server() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"
