"""What the world learns of a run: /progress, /metrics and /healthz over HTTP, losses.jsonl, SwanLab, log lines.

Rank 0 alone reports. The server is a daemon thread that only ever reads an immutable Progress.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from finetune_contract import CheckpointReport, Progress, RunConfig, Stage, SwanLabConfig
from finetune_contract.paths import ATTEMPTS, LOSSES_FILE, PROGRESS_PORT_FILE_ENV
from finetune_trainer.failures import UserError

log = logging.getLogger("finetune")

_METRICS = {
    "step": "Optimizer steps done, earlier attempts included",
    "total_steps": "Optimizer steps of the whole run",
    "epoch": "Passes over the training sequences",
    "loss": "Mean loss over the supervised tokens of the last step",
    "validation_loss": "Mean loss over the supervised tokens of the validation split",
    "learning_rate": "Learning rate of the last step",
    "grad_norm": "Global gradient norm of the last step, before clipping",
    "tokens_per_second": "Real tokens of all ranks per second",
    "step_seconds": "Median duration of a step",
    "eta_seconds": "Seconds left until the last step",
    "peak_memory_bytes": "Largest memory held by a rank",
    "mfu_ratio": "Share of the devices' peak that training a token needs (4N frozen, 6N trained)",
}


def log_to_stderr(rank: int) -> None:
    """Set up this process's log: time, rank, event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s rank={rank} %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)


class Reporter:
    """Holds the run's latest Progress and passes on what happens."""

    def __init__(self, config: RunConfig, total_steps: int, *, active: bool) -> None:
        self._config = config
        self._active = active
        self._server: ThreadingHTTPServer | None = None
        self._tracker: Any = None
        self._losses_file = Path(config.output_dir) / ATTEMPTS / str(config.attempt) / LOSSES_FILE
        self.mfu: float | None = None
        self.progress = Progress(
            attempt=config.attempt,
            stage=Stage.LOADING,
            step=0,
            total_steps=total_steps,
            epoch=0.0,
            updated_at=time.time(),
        )

    def update(self, **changes: Any) -> None:
        """Replace fields of the Progress."""
        self.progress = self.progress.model_copy(update={**changes, "updated_at": time.time()})

    def enter(self, stage: Stage) -> None:
        """Note what the run is doing now."""
        if stage is not self.progress.stage:
            log.info("stage=%s step=%d", stage.value, self.progress.step)
        self.update(stage=stage)

    def step_done(self, *, tokens: int, mfu: float | None, **changes: Any) -> None:
        """Note a finished step: progress, a line of losses.jsonl, a log line, the tracker."""
        self.mfu = mfu
        self.update(**changes)
        if not self._active:
            return
        now = self.progress
        line = {key: getattr(now, key) for key in ("step", "loss", "grad_norm", "learning_rate")} | {"tokens": tokens}
        with open(self._losses_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        log.info(
            "step=%d/%d loss=%.4f grad_norm=%.3g learning_rate=%.3g tokens_per_second=%.0f eta_seconds=%.0f",
            now.step, now.total_steps, now.loss, now.grad_norm or 0, now.learning_rate, now.tokens_per_second or 0,
            now.eta_seconds or 0,
        )  # fmt: skip
        self._track({key: getattr(now, key) for key in ("loss", "grad_norm", "learning_rate", "tokens_per_second")})

    def validated(self, loss: float) -> None:
        """Note a validation loss."""
        self.update(validation_loss=loss)
        log.info("validation_loss=%.4f step=%d", loss, self.progress.step)
        self._track({"validation_loss": loss})

    def saved(self, checkpoint: CheckpointReport) -> None:
        """Note a complete checkpoint."""
        self.update(checkpoint=checkpoint)
        log.info("checkpoint=%s bytes=%d seconds=%.2f", checkpoint.path, checkpoint.bytes, checkpoint.seconds)

    def _track(self, values: dict[str, Any]) -> None:
        if self._tracker is not None:
            known = {key: value for key, value in values.items() if value is not None}
            self._tracker.log(known, step=self.progress.step)

    def __enter__(self) -> "Reporter":
        """On rank 0: serve on the run's progress port, and track if asked to."""
        if self._active:
            self._losses_file.parent.mkdir(parents=True, exist_ok=True)
            self._server = _server(self, self._config.progress_port)
            port_file = os.environ.get(PROGRESS_PORT_FILE_ENV)
            if port_file:
                Path(port_file).write_text(str(self._server.server_port), encoding="utf-8")
            threading.Thread(target=self._server.serve_forever, name="progress", daemon=True).start()
            log.info("serving /progress, /metrics, /healthz on port %d", self._server.server_port)
            if self._config.swanlab is not None:
                self._tracker = _swanlab_run(self._config, self._config.swanlab)
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            self._tracker.finish()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _ProgressCollector(Collector):
    """Turns the Progress of the moment into gauges, at every scrape."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def collect(self) -> Iterator[GaugeMetricFamily]:
        values = self._reporter.progress.model_dump() | {"mfu_ratio": self._reporter.mfu}
        for name, meaning in _METRICS.items():
            if values[name] is not None:
                yield GaugeMetricFamily(f"finetune_{name}", meaning, value=values[name])


def _server(reporter: Reporter, port: int) -> ThreadingHTTPServer:
    registry = CollectorRegistry()
    registry.register(_ProgressCollector(reporter))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer("application/json", reporter.progress.model_dump_json().encode())
            elif self.path == "/metrics":
                self._answer(CONTENT_TYPE_LATEST, generate_latest(registry))
            elif self.path == "/healthz":
                self._answer("text/plain", b"ok\n")
            else:
                self.send_error(404)

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Polls every few seconds are no news."""

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        raise UserError("PortTaken", f"progress_port: {port} cannot be served on: {error}; choose another") from error
    server.daemon_threads = True
    return server


def _swanlab_run(config: RunConfig, swanlab_config: SwanLabConfig) -> Any:
    """The one SwanLab run of all attempts: its id comes from the resource's uid. None when it cannot be had."""
    os.environ.setdefault("SWANLAB_INTERACTIVE", "false")  # a pod has nobody to ask
    if swanlab_config.host is not None:
        os.environ["SWANLAB_API_HOST"] = swanlab_config.host  # the web host's variable is for display only
    try:
        import swanlab
    except ImportError as error:
        raise UserError("SwanLabMissing", "tracking.swanlab: the package swanlab is not installed") from error
    try:
        return swanlab.init(
            project=swanlab_config.project,
            workspace=swanlab_config.workspace,
            name=config.run.name,
            id=config.run.uid.lower(),
            resume="allow",
            mode=swanlab_config.mode,
            log_dir=str(Path(config.output_dir) / "swanlab"),
            config=config.model_dump(mode="json"),
        )
    except Exception as error:  # whatever a tracker's server answers, days of training are worth more
        log.warning("tracking is off, SwanLab did not start: %s: %s", type(error).__name__, error)
        return None
