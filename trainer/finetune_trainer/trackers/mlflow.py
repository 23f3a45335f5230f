"""MLflow: a tracking server.

It keeps every value of a step, so replayed steps are not sent again. Its own ids cannot be chosen: a tag finds the run.
"""

import os

from finetune_contract import MlflowConfig, RunConfig
from finetune_trainer.trackers.connection import Connection, hyperparameters, run_id

RESENDS_STEPS = False
TAG = "qwen3_finetune_uid"


def opened(run: RunConfig, wanted: MlflowConfig, first_step: int) -> Connection:  # noqa: ARG001 - the tag tells runs apart
    """The one run of all attempts. Raises whatever mlflow raises."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    from accelerate.tracking import MLflowTracker

    mlflow.set_tracking_uri(wanted.tracking_uri)
    found = _run_of(run, wanted.experiment)
    tracker = MLflowTracker(
        experiment_name=wanted.experiment, run_id=found, run_name=run.run.name, tags={TAG: run_id(run)}
    )
    tracker.start()
    if found is None:  # a parameter cannot be changed
        tracker.store_init_configuration(hyperparameters(run))
    info = tracker.active_run.info
    is_server = wanted.tracking_uri.startswith("http")
    path = f"#/experiments/{info.experiment_id}/runs/{info.run_id}"
    return Connection(tracker, f"{wanted.tracking_uri.rstrip('/')}/{path}" if is_server else None)


def _run_of(run: RunConfig, experiment: str) -> str | None:
    """The run that an earlier attempt made."""
    from mlflow import MlflowClient

    client = MlflowClient()
    known = client.get_experiment_by_name(experiment)
    if known is None:
        return None
    runs = client.search_runs([known.experiment_id], filter_string=f"tags.{TAG} = '{run_id(run)}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None
