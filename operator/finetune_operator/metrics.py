"""The operator's own metrics. Those of a training run are served by the run itself."""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

PREFIX = "qwen3_finetune"


class Metrics:
    """What passes and API calls come to, and a view of the runs at the moment of a scrape."""

    def __init__(self, runs: Callable[[], Iterable[dict[str, Any]]], ticks: Callable[[], float]) -> None:
        """`runs` gives every known resource, as the API server last said; `ticks` are seconds that never jump."""
        self.registry = CollectorRegistry()
        self._ticks = ticks
        self._last_success_at = ticks()
        self.pass_seconds = Histogram(
            f"{PREFIX}_pass_seconds",
            "Duration of one pass over one run, by how it ended.",
            ["result"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.api_calls = Counter(
            f"{PREFIX}_api_calls",
            "Calls to the API server beside the watches; code 0: no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.api_seconds = Histogram(
            f"{PREFIX}_api_call_seconds", "Duration of calls to the API server.", ["verb"], registry=self.registry
        )
        self.errors = Counter(f"{PREFIX}_errors", "Passes and resyncs that failed.", ["kind"], registry=self.registry)
        self.is_leading = Gauge(
            f"{PREFIX}_leader", "1: this operator reconciles; 0: it stands by.", registry=self.registry
        )
        self.is_leading.set(1)
        age = Gauge(
            f"{PREFIX}_last_successful_pass_age_seconds",
            "Seconds since a pass or a resync last succeeded.",
            registry=self.registry,
        )
        age.set_function(lambda: self._ticks() - self._last_success_at)
        self.registry.register(_RunsCollector(runs))

    def saw_call(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """One call to the API server ended."""
        self.api_calls.labels(verb, resource, str(code)).inc()
        self.api_seconds.labels(verb).observe(seconds)

    def saw_success(self) -> None:
        """A pass or a resync succeeded."""
        self._last_success_at = self._ticks()


class _RunsCollector(Collector):
    """Counted at the scrape from the resources themselves: a restart loses nothing."""

    def __init__(self, runs: Callable[[], Iterable[dict[str, Any]]]) -> None:
        self._runs = runs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Runs by phase, and the recorded attempts of existing runs by cause."""
        statuses = [run.get("status", {}) for run in self._runs()]
        phases = Count(status.get("phase", "Pending") for status in statuses)
        yield _family("runs", "Runs that exist, by phase.", "phase", phases)
        causes = Count(attempt.get("cause", "Unended") for status in statuses for attempt in status.get("attempts", ()))
        yield _family("attempts", "Attempts in the status of runs that exist, by what ended them.", "cause", causes)
        alarms = Count(alarm["indicator"] for status in statuses for alarm in _standing(status))
        yield _family("alarms", "Runs in which an indicator has been beyond its limit for long.", "indicator", alarms)


def _standing(status: dict[str, Any]) -> list[dict[str, Any]]:
    alarms: list[dict[str, Any]] = status.get("progress", {}).get("alarms", [])
    return [alarm for alarm in alarms if alarm["standing"]]


def _family(name: str, text: str, label: str, counts: Count[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
