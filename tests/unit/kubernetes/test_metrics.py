"""What a scrape shows, read as Prometheus reads it."""

from typing import Any

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from finetune_operator.lifecycle import text
from finetune_operator.metrics import PREFIX, Metrics
from support.runs import START

COST = {"gpuSeconds": 100, "usefulGpuSeconds": 70, "lostGpuSeconds": 20}

NAMES = (
    *("runs", "attempts", "alarms", "oldest_queued_seconds", "gpus_held", "gpu_seconds", "time_to_phase_seconds"),
    *("pass_seconds", "api_calls", "api_call_seconds", "errors", "leader", "last_successful_pass_age_seconds"),
)


def run(namespace: str = "team", **status: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace}, "status": status}


def attempt(**fields: Any) -> dict[str, Any]:
    return {"number": 1, "startedAt": text.timestamp(START - 90), "gpus": 8} | fields


def scraped(*runs: dict[str, Any]) -> Metrics:
    return Metrics(lambda: runs, clock=lambda: START, ticks=lambda: 0.0)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"{PREFIX}_{name}", labels)


def test_runs_and_attempts_are_counted() -> None:
    metrics = scraped(run(phase="Running", attempts=[attempt(cause="Hang"), attempt()]), run(phase="Running"), run())
    assert value(metrics, "runs", phase="Running") == 2
    assert value(metrics, "runs", phase="Pending") == 1
    assert value(metrics, "attempts", cause="Hang") == 1
    assert value(metrics, "attempts", cause="Unended") == 1


def test_the_age_of_the_queue_is_that_of_the_run_that_waits_longest() -> None:
    waiting = [run(phase="Queued", attempts=[attempt(startedAt=text.timestamp(START - age))]) for age in (30, 500, 60)]
    older = run(phase="Running", attempts=[attempt(startedAt=text.timestamp(START - 9000))])
    assert value(scraped(*waiting, older), "oldest_queued_seconds") == 500
    assert value(scraped(older), "oldest_queued_seconds") == 0


def test_gpus_are_held_while_workers_are_left() -> None:
    running = attempt(runningSince=text.timestamp(START - 60))
    gone = running | {"releasedAt": text.timestamp(START)}
    runs = [
        run("a", attempts=[gone, running]), run("a", attempts=[attempt()]), run("b", attempts=[running]),
        run("c", attempts=[running], completionTime=text.timestamp(START)),
    ]  # fmt: skip
    metrics = scraped(*runs)
    assert [value(metrics, "gpus_held", namespace=name) for name in "abc"] == [8, 8, 0]


def test_gpu_time_is_added_up_by_namespace_and_use() -> None:
    metrics = scraped(run("a", cost=COST), run("a", cost=COST), run("b", cost=COST), run("b"))
    assert [value(metrics, "gpu_seconds", namespace="a", use=use) for use in ("held", "useful", "lost")] == [
        200, 140, 40,
    ]  # fmt: skip
    assert value(metrics, "gpu_seconds", namespace="b", use="held") == 100


def test_times_to_phases_are_a_histogram() -> None:
    metrics = scraped()
    metrics.saw_phase("Running", 45)
    metrics.saw_phase("Running", -3)
    assert value(metrics, "time_to_phase_seconds_count", phase="Running") == 2
    assert value(metrics, "time_to_phase_seconds_bucket", phase="Running", le="30.0") == 1


def test_a_status_in_which_somebody_has_written_breaks_no_scrape() -> None:
    strange = run(phase="Queued", attempts=[{}], progress={"alarms": [{}]}, cost={})
    assert value(scraped(strange, {"metadata": {"namespace": "team"}}), "runs", phase="Queued") == 1


def test_prometheus_can_read_all_of_it() -> None:
    metrics = scraped(run(phase="Queued", attempts=[attempt(cause="Hang")], cost=COST))
    metrics.saw_phase("Running", 45)
    metrics.saw_call("get", "jobs", 200, 0.1)
    metrics.errors.labels("pass").inc()
    metrics.pass_seconds.labels("wrote").observe(0.1)
    families = {each.name: each for each in text_string_to_metric_families(generate_latest(metrics.registry).decode())}
    assert {f"{PREFIX}_{name}" for name in NAMES} <= families.keys()
    assert all(each.documentation for name, each in families.items() if not name.endswith("_created"))
    assert [sample.value for sample in families[f"{PREFIX}_api_calls"].samples] == [1]
