"""The operator as a user's cluster runs it: a process of its own, started and signalled by tests."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

FAST = {
    "resyncSeconds": 5,
    "progressIntervalSeconds": 0.5,
    "fencingGraceSeconds": 0,
    "pods": {"graceSeconds": 30},
}
"""Settings with which a test need not wait."""


class OperatorProcess:
    """`python -m finetune_operator`, with the log in a file."""

    def __init__(
        self, folder: Path, kubeconfig: Path, namespaces: Sequence[str] = (), settings: dict[str, object] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "operator.log"
        self._settings = folder / "settings.yaml"
        self._settings.write_text(yaml.safe_dump(FAST | (settings or {})))
        self._kubeconfig = kubeconfig
        self._namespaces = namespaces
        self._health, self._metrics = _free_port(), _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def start(self) -> None:
        """Returns when the operator says that it is well."""
        words = ["--settings", str(self._settings), "--health-port", str(self._health)]
        words += ["--metrics-port", str(self._metrics)]
        for namespace in self._namespaces:
            words += ["--namespace", namespace]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator", *words],
                env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait_well()

    def wait_well(self, timeout: float = 60) -> None:
        """Returns when it reconciles, or stands by."""
        deadline = time.monotonic() + timeout
        while not self.is_well():
            assert self.is_alive(), f"the operator has ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"the operator is not well:\n{self.log()}"
            time.sleep(0.1)

    def is_well(self) -> bool:
        """What the readiness probe would find."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def process_id(self) -> int:
        """As the kernel knows it."""
        assert self._process is not None
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=30)

    def log(self) -> str:
        """Everything that the operator has written."""
        return self.log_file.read_text(errors="replace")

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as they stand in the text."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def api_calls(self, verb: str = "") -> float:
        """How often the API server was called beside the watches."""
        prefix = "qwen3_finetune_api_calls_total{"
        return sum(
            value for name, value in self.metrics().items() if name.startswith(prefix) and f'verb="{verb}' in name
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
