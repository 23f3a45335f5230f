"""The operator's own metrics. Those of a training run are served by the run itself."""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

PREFIX = "qwen3_finetune"
QUEUED = "Queued"

Run = dict[str, Any]


class Metrics:
    """What passes and API calls come to, and a view of the runs at the moment of a scrape."""

    def __init__(
        self, runs: Callable[[], Iterable[Run]], clock: Callable[[], float], ticks: Callable[[], float]
    ) -> None:
        """`runs` gives every known resource, as the API server last said; `clock` is in unix seconds, `ticks` in
        seconds that never jump."""
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
        self.time_to_phase = Histogram(
            f"{PREFIX}_time_to_phase_seconds",
            "From a run's creation until it came to a phase without a restart, or to its end.",
            ["phase"],
            buckets=(1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 259200),
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
        self.registry.register(_RunsCollector(runs, clock))

    def saw_call(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """One call to the API server ended."""
        self.api_calls.labels(verb, resource, str(code)).inc()
        self.api_seconds.labels(verb).observe(seconds)

    def saw_success(self) -> None:
        """A pass or a resync succeeded."""
        self._last_success_at = self._ticks()

    def saw_phase(self, phase: str, seconds: float) -> None:
        """A run has come to `phase`, so long after it was created."""
        self.time_to_phase.labels(phase).observe(max(0.0, seconds))


class _RunsCollector(Collector):
    """Counted at the scrape from the resources themselves: a restart loses nothing.

    A person may have written anything into a status that its schema allows: nothing is taken to be there.
    """

    def __init__(self, runs: Callable[[], Iterable[Run]], clock: Callable[[], float]) -> None:
        self._runs = runs
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Runs, their attempts and alarms, what waits, and what GPUs were spent on."""
        runs = [(run.get("metadata", {}).get("namespace", ""), run.get("status", {})) for run in self._runs()]
        statuses = [status for _, status in runs]
        phases = Count(status.get("phase", "Pending") for status in statuses)
        yield _family("runs", "Runs that exist, by phase.", "phase", phases)
        causes = Count(attempt.get("cause", "Unended") for status in statuses for attempt in status.get("attempts", ()))
        yield _family("attempts", "Attempts in the status of runs that exist, by what ended them.", "cause", causes)
        alarms = Count(alarm.get("indicator", "") for status in statuses for alarm in _standing(status))
        yield _family("alarms", "Runs in which an indicator has been beyond its limit for long.", "indicator", alarms)
        oldest = max((self._queued_seconds(status) for status in statuses), default=0.0)
        yield GaugeMetricFamily(f"{PREFIX}_oldest_queued_seconds", "How long the oldest queued run waits.", oldest)
        held = GaugeMetricFamily(f"{PREFIX}_gpus_held", "GPUs that runs hold now.", labels=["namespace"])
        for namespace, count in sorted(_summed((namespace, _gpus_held(status)) for namespace, status in runs).items()):
            held.add_metric([namespace], count)
        yield held
        yield _gpu_seconds(runs)

    def _queued_seconds(self, status: Run) -> float:
        attempts = status.get("attempts") or [{}]
        started_at = attempts[-1].get("startedAt")
        if status.get("phase") != QUEUED or started_at is None:
            return 0.0
        return max(0.0, self._clock() - datetime.fromisoformat(started_at).timestamp())


def _gpu_seconds(runs: list[tuple[str, Run]]) -> GaugeMetricFamily:
    """By namespace and use; held is the whole, of which useful and lost are parts."""
    text = "GPU-seconds of runs that exist: held in all, and of these useful and lost to restarts."
    family = GaugeMetricFamily(f"{PREFIX}_gpu_seconds", text, labels=["namespace", "use"])
    for use, field in (("held", "gpuSeconds"), ("useful", "usefulGpuSeconds"), ("lost", "lostGpuSeconds")):
        sums = _summed((namespace, status.get("cost", {}).get(field, 0)) for namespace, status in runs)
        for namespace, seconds in sorted(sums.items()):
            family.add_metric([namespace, use], seconds)
    return family


def _summed(parts: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, part in parts:
        sums[name] = sums.get(name, 0) + part
    return sums


def _gpus_held(status: Run) -> int:
    if "completionTime" in status:
        return 0
    holding = (each for each in status.get("attempts", ()) if "runningSince" in each and "releasedAt" not in each)
    return sum(each.get("gpus", 0) for each in holding)


def _standing(status: Run) -> list[Run]:
    alarms: list[Run] = status.get("progress", {}).get("alarms", [])
    return [alarm for alarm in alarms if alarm.get("standing")]


def _family(name: str, text: str, label: str, counts: Count[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
