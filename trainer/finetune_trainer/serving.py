"""What rank 0 serves: /progress as JSON, /metrics for Prometheus, /healthz.

The server is a daemon thread that only ever reads immutable values.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from finetune_contract import Indicator, Indicators, Progress, TrackerState
from finetune_trainer.failures import UserError
from finetune_trainer.measuring.readings import Reading

MAX_RANKS = 1024
"""Ranks with a line of their own in /metrics."""

_PROGRESS = {
    "step": "Optimizer steps done, earlier attempts included.",
    "total_steps": "Optimizer steps of the whole run.",
    "epoch": "Passes over the training sequences.",
    "loss": "Mean loss over the supervised tokens of the last step.",
    "validation_loss": "Mean loss over the supervised tokens of the validation split.",
    "best_validation_loss": "The lowest validation loss so far.",
    "best_step": "Step after which it was found.",
    "skipped_steps": "Steps that changed nothing, since loss or gradient norm was not finite.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Global gradient norm of the last step, before clipping.",
    "tokens_per_second": "Real tokens of all ranks per second.",
    "step_seconds": "Median duration of a step.",
    "eta_seconds": "Seconds left until the last step.",
    "peak_memory_bytes": "Largest memory held by a rank.",
    "expert_imbalance_ratio": "Tokens of a mixture's busiest expert over the mean of its layer; 1 is balanced.",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is served, as of one moment."""

    progress: Progress
    ranks: tuple[Reading, ...] = ()


class MetricsCollector(Collector):
    """Turns the snapshot of the moment into metrics, at every scrape; what is not known is left out."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Figures, indicators, alarms, trackers, ranks."""
        snapshot = self._snapshot()
        progress = snapshot.progress
        for name, meaning in _PROGRESS.items():
            yield from _gauge(name, meaning, getattr(progress, name))
        for name, field in Indicators.model_fields.items():
            meaning = " ".join((field.description or "").split())
            yield from _gauge(name, meaning, getattr(progress.indicators, name, None))
        yield from _alarms(progress)
        yield from _slowest(progress)
        yield from _trackers(progress)
        yield from _ranks(snapshot.ranks[:MAX_RANKS])


def _gauge(name: str, meaning: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"finetune_{name}", meaning, value=value)


def _alarms(progress: Progress) -> Iterator[Metric]:
    raised = {alarm.indicator for alarm in progress.alarms}
    family = GaugeMetricFamily("finetune_alarm", "1 while the indicator is beyond its limit.", labels=["indicator"])
    for indicator in Indicator:
        family.add_metric([indicator], float(indicator in raised))
    yield family


def _slowest(progress: Progress) -> Iterator[Metric]:
    found = progress.slowest_rank
    if found is not None:
        family = GaugeMetricFamily(
            "finetune_slowest_rank_ratio",
            "Own step time of the rank that the others wait for, over the median of theirs.",
            labels=["rank", "host"],
        )
        family.add_metric([str(found.rank), found.host], found.ratio)
        yield family


def _trackers(progress: Progress) -> Iterator[Metric]:
    if not progress.trackers:
        return
    live = GaugeMetricFamily("finetune_tracker_live", "1 while the tracker takes what it is sent.", labels=["tracker"])
    dropped = CounterMetricFamily(
        "finetune_tracker_dropped_points", "Points that never reached the tracker.", labels=["tracker"]
    )
    for name, report in progress.trackers.items():
        live.add_metric([name], float(report.state is TrackerState.LIVE))
        dropped.add_metric([name], report.dropped)
    yield from (live, dropped)


def _ranks(ranks: tuple[Reading, ...]) -> Iterator[Metric]:
    memory = GaugeMetricFamily(
        "finetune_rank_peak_memory_bytes", "Largest memory that this rank held.", labels=["rank"]
    )
    busy = GaugeMetricFamily(
        "finetune_rank_gpu_utilisation_ratio",
        "Share of the time in which this rank's GPU ran a kernel.",
        labels=["rank"],
    )
    for rank, reading in enumerate(ranks):
        memory.add_metric([str(rank)], reading.peak_memory_bytes)
        if reading.gpu_utilisation == reading.gpu_utilisation:  # else it is not known
            busy.add_metric([str(rank)], reading.gpu_utilisation)
    yield from (family for family in (memory, busy) if family.samples)


def server(snapshot: Callable[[], Snapshot], port: int) -> ThreadingHTTPServer:
    """Bound to `port` (0: any free one), not serving yet. Raises: UserError when the port is taken."""
    registry = CollectorRegistry()
    registry.register(MetricsCollector(snapshot))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer("application/json", snapshot().progress.model_dump_json().encode())
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
        made = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        raise UserError("PortTaken", f"progress_port: {port} cannot be served on: {error}; choose another") from error
    made.daemon_threads = True
    return made
