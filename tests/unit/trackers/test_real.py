"""The real libraries: what two attempts leave behind, and what becomes of servers that are not there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import RunConfig, TrackerReport, TrackerState
from finetune_trainer.trackers import Tracking, openers_of
from unit.trackers.runs import hanging_server, refusing_server, tracked

SOON = 60.0


def sent(run: RunConfig, steps: range, *, sent_step: int = 0) -> TrackerReport:
    """Send a loss for each of `steps` as one attempt does."""
    made = Tracking(openers_of(run), first_step=steps.start, sent_step=sent_step)
    for step in steps:
        made.log(step, {"loss": 10.0 * run.attempt + step})
    made.close(SOON)
    (report,) = made.reports().values()
    return report


def test_tensorboard_shows_one_curve_of_two_attempts(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert sent(tracked(tmp_path, 1, tensorboard={}), range(1, 6)).state is TrackerState.LIVE
    # the second attempt goes on from step 3 and does 4 and 5 again
    sent(tracked(tmp_path, 2, tensorboard={}), range(4, 7), sent_step=5)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curve = [(point.step, point.value) for point in events.Scalars("loss")]
    assert curve == [(1, 11.0), (2, 12.0), (3, 13.0), (4, 24.0), (5, 25.0), (6, 26.0)]
    assert events.Tags()["tensors"] == ["settings/text_summary"]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2, "event files alone, one for each attempt"


def test_mlflow_keeps_one_run_of_two_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    from mlflow import MlflowClient

    settings: dict[str, Any] = {"mlflow": {"tracking_uri": f"file://{tmp_path}/store", "experiment": "qwen3"}}
    first = sent(tracked(tmp_path, 1, **settings), range(1, 6))
    assert first.state is TrackerState.LIVE, first
    second = sent(tracked(tmp_path, 2, **settings), range(4, 8), sent_step=5)
    assert second.state is TrackerState.LIVE, second
    client = MlflowClient(f"file://{tmp_path}/store")
    experiment = client.get_experiment_by_name("qwen3")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "loss")]
    assert history == [(1, 11.0), (2, 12.0), (3, 13.0), (4, 14.0), (5, 15.0), (6, 26.0), (7, 27.0)]
    assert run.data.params["method.rank"] == "4"
    assert run.info.status == "FINISHED"


def test_swanlab_writes_both_attempts_under_one_id_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = {"swanlab": {"project": "qwen3", "online": False}}
    for attempt in (1, 2):
        report = sent(tracked(tmp_path, attempt, **settings), range(1, 3))
        assert report.state is TrackerState.LIVE, report
    folders = [folder.name for folder in (tmp_path / "swanlab").glob("run-*")]
    assert len(folders) == 2
    assert {name.split("-", 2)[2] for name in folders} == {"0a1b_22_x"}


def test_wandb_writes_both_attempts_under_one_id_offline(tmp_path: Path) -> None:
    settings = {"wandb": {"project": "qwen3", "online": False}}
    for attempt in (1, 2):
        report = sent(tracked(tmp_path, attempt, **settings), range(1, 3))
        assert report.state is TrackerState.LIVE, report
    runs = list((tmp_path / "wandb").glob("**/offline-run-*/run-*.wandb"))
    assert [file.name for file in runs] == ["run-0a1b-22-x.wandb"] * len(runs)
    assert runs


def test_a_run_ends_in_time_though_no_server_answers(tmp_path: Path) -> None:
    """The real libraries against servers that hang and refuse, in a process that ends as a rank does."""
    environment = os.environ | dict.fromkeys(("SWANLAB_API_KEY", "WANDB_API_KEY"), "k" * 40) | {"HOME": str(tmp_path)}
    with hanging_server() as hanging:
        command = [
            sys.executable,
            "-m",
            "unit.trackers.rank_of_a_dead_server",
            str(tmp_path),
            hanging,
            refusing_server(),
        ]
        done = subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=90
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["put_seconds"] < 0.1, "a point is queued, whatever becomes of it"
    assert told["close_seconds"] < 2.0
    assert set(told["left_behind"]) >= {"tracker-swanlab", "tracker-mlflow"}
    assert set(told["states"]) == {"swanlab", "wandb", "mlflow"}
    assert not set(told["states"].values()) & {TrackerState.LIVE.value}
