"""What rank 0 serves and writes down."""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from finetune_contract import Alarm, ExitCode, Indicator, Indicators, Progress, SlowestRank, Stage, TrackerState
from finetune_contract.paths import PROGRESS_PORT_FILE_ENV
from finetune_trainer import pulse
from finetune_trainer.checkpoint.volume import VolumeError
from finetune_trainer.failures import UserError
from finetune_trainer.measuring.meter import Figures
from finetune_trainer.measuring.readings import Reading, Sample
from finetune_trainer.measuring.straggler import Slowest
from finetune_trainer.reporting import Reporter, last_reported_step, losses_file
from support import volumes
from unit.trackers.runs import tracked

RANKS = (
    Reading(peak_memory_bytes=3e9, gpu_utilisation=0.75),
    Reading(peak_memory_bytes=5e9),
)
ALARM = Alarm(indicator=Indicator.COMMUNICATION, value=0.25, threshold=0.1, remedy="larger buckets", since=5.0)


def figures(**changes: Any) -> Figures:
    values: dict[str, Any] = {
        "tokens_per_second": 1234.5,
        "step_seconds": 0.5,
        "sample": Sample(seconds=1.0, tokens=10, supervised_tokens=5, ranks=RANKS),
        "indicators": Indicators(samples_per_second=7.5, mfu_ratio=0.5, communication_ratio=0.25),
        "alarms": (),
    }
    return Figures(**values | changes)


def step_done(reporter: Reporter, step: int, **changes: Any) -> None:
    reporter.step_done(
        tokens=77,
        applied=True,
        figures=figures(**changes),
        step=step,
        loss=0.1 + 0.2,
        learning_rate=1e-3,
        grad_norm=1.5,
    )


def fetched(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def samples(exposition: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Value by name and labels."""
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


@pytest.fixture
def port_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a laptop finds the port."""
    monkeypatch.setenv(PROGRESS_PORT_FILE_ENV, str(tmp_path / "port"))
    return tmp_path / "port"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """The log of the run, whatever another test has made of its handlers."""
    logger = logging.getLogger("finetune")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_progress_and_metrics_are_those_of_the_last_step(tmp_path: Path, port_file: Path) -> None:
    with Reporter(tracked(tmp_path / "out"), total_steps=10, active=True) as reporter:
        port = int(port_file.read_text())
        before = Progress.model_validate_json(fetched(port, "/progress"))
        assert (before.stage, before.step, before.loss) == (Stage.LOADING, 0, None)
        assert "finetune_loss" not in fetched(port, "/metrics")
        step_done(reporter, 3, alarms=(ALARM,))
        after = Progress.model_validate_json(fetched(port, "/progress"))
        assert (after.step, after.loss, after.alarms) == (3, 0.1 + 0.2, (ALARM,))
        assert (after.peak_memory_bytes, after.tokens_per_second) == (5_000_000_000, 1234.5)
        assert after.indicators is not None
        assert after.indicators.mfu_ratio == 0.5
        with pytest.raises(urllib.error.HTTPError):
            fetched(port, "/etc/passwd")
    line = json.loads((tmp_path / "out" / "attempts" / "1" / "losses.jsonl").read_text())
    expected = {"step": 3, "loss": 0.1 + 0.2, "grad_norm": 1.5, "learning_rate": 1e-3, "tokens": 77, "applied": True}
    assert line == expected


def test_metrics_are_what_prometheus_reads(tmp_path: Path, port_file: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tensorboard").write_text("in the way of the tracker's folder")
    with Reporter(tracked(tmp_path / "out", tensorboard={}), total_steps=10, active=True) as reporter:
        reporter.enter(Stage.TRAINING)
        step_done(reporter, 3, alarms=(ALARM,))
        text = fetched(int(port_file.read_text()), "/metrics")
    found = samples(text)
    assert found["finetune_loss", ()] == 0.1 + 0.2
    assert found["finetune_samples_per_second", ()] == 7.5
    assert found["finetune_mfu_ratio", ()] == 0.5
    assert found["finetune_alarm", (("indicator", "Communication"),)] == 1
    assert found["finetune_alarm", (("indicator", "Loss"),)] == 0
    assert found["finetune_rank_peak_memory_bytes", (("rank", "1"),)] == 5e9
    assert found["finetune_rank_gpu_utilisation_ratio", (("rank", "0"),)] == 0.75
    assert ("finetune_rank_gpu_utilisation_ratio", (("rank", "1"),)) not in found, "not known"
    assert found["finetune_tracker_live", (("tracker", "tensorboard"),)] == 0
    assert found["finetune_tracker_dropped_points_total", (("tracker", "tensorboard"),)] in (0, 1)
    units = ("_bytes", "_seconds", "_ratio", "_per_second", "_total", "_points")
    plain = {"step", "steps", "epoch", "loss", "rate", "norm", "alarm", "live"}
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name
        assert family.name.endswith(units) or family.name.rpartition("_")[2] in plain, family.name


def test_the_slowest_rank_is_told_with_its_host(tmp_path: Path, port_file: Path) -> None:
    with Reporter(tracked(tmp_path / "out"), total_steps=10, active=True, hosts=("gpu-1", "gpu-2")) as reporter:
        step_done(reporter, 3)
        assert reporter.progress.slowest_rank is None
        step_done(reporter, 4, slowest=Slowest(1, 1.41666))
        port = int(port_file.read_text())
        found = samples(fetched(port, "/metrics"))
        told = Progress.model_validate_json(fetched(port, "/progress"))
    assert told.slowest_rank == SlowestRank(rank=1, host="gpu-2", ratio=1.417)
    assert found["finetune_slowest_rank_ratio", (("host", "gpu-2"), ("rank", "1"))] == 1.417


def test_what_is_served_says_how_long_nothing_has_moved(tmp_path: Path, port_file: Path) -> None:
    with Reporter(tracked(tmp_path / "out"), total_steps=10, active=True) as reporter:
        port = int(port_file.read_text())
        before = Progress.model_validate_json(fetched(port, "/progress")).still_seconds
        reporter.enter(Stage.SAVING)
        after = Progress.model_validate_json(fetched(port, "/progress")).still_seconds
        assert after <= pulse.own.still_seconds
        later = Progress.model_validate_json(fetched(port, "/progress")).still_seconds
    assert before > 0
    assert later >= after


def test_every_indicator_has_a_metric_with_words(tmp_path: Path, port_file: Path) -> None:
    every = Indicators(**dict.fromkeys(Indicators.model_fields, 0.5))
    with Reporter(tracked(tmp_path / "out"), total_steps=10, active=True) as reporter:
        step_done(reporter, 1, indicators=every)
        families = list(text_string_to_metric_families(fetched(int(port_file.read_text()), "/metrics")))
    words = {family.name: family.documentation for family in families}
    assert all(words[f"finetune_{name}"] for name in Indicators.model_fields)


def test_an_alarm_is_logged_when_it_comes_and_when_it_goes(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    with Reporter(tracked(tmp_path / "out"), total_steps=10, active=True) as reporter:
        for step, raised in enumerate(((), (ALARM,), (ALARM,), (), ()), 1):
            step_done(reporter, step, alarms=raised)
    lines = [message for message in told.messages if "alarm=" in message]
    assert lines == [
        "alarm=Communication value=0.25 threshold=0.1: larger buckets",
        "alarm=Communication is over",
    ]


def test_a_tracker_that_is_down_is_seen_and_stops_nobody(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tensorboard").write_text("in the way of the tracker's folder")
    with Reporter(tracked(tmp_path / "out", tensorboard={}), total_steps=10, active=True) as reporter:
        reporter.enter(Stage.TRAINING)
        step_done(reporter, 1)
    assert reporter.progress.trackers["tensorboard"].state is TrackerState.DOWN
    assert sum("tracker=tensorboard is down, training goes on" in message for message in told.messages) == 1


def test_a_taken_port_is_a_user_error(tmp_path: Path, port_file: Path) -> None:
    with Reporter(tracked(tmp_path / "out"), total_steps=10, active=True):
        taken = tracked(tmp_path / "out").model_copy(update={"progress_port": int(port_file.read_text())})
        with pytest.raises(UserError, match="cannot be served on"), Reporter(taken, total_steps=10, active=True):
            pass


def test_other_ranks_serve_track_and_write_nothing(tmp_path: Path, port_file: Path) -> None:
    with Reporter(tracked(tmp_path / "out", tensorboard={}), total_steps=10, active=False) as reporter:
        reporter.enter(Stage.TRAINING)
        step_done(reporter, 1)
    assert not port_file.exists()
    assert not (tmp_path / "out").exists()


def test_the_last_step_of_earlier_attempts_is_known_whatever_cut_them_off(tmp_path: Path) -> None:
    third = tracked(tmp_path, attempt=3)
    assert last_reported_step(third) == 0
    for attempt, text in ((1, '{"step": 8}\n{"step": 9}\n{"st'), (2, '{"step": 7}\n'), (3, '{"step": 99}\n')):
        losses_file(third, attempt).parent.mkdir(parents=True)
        losses_file(third, attempt).write_text(text)
    assert last_reported_step(third) == 9
    losses_file(third, 1).write_text('{"st')
    assert last_reported_step(third) == 7


@pytest.mark.skipif(volumes.missing() is not None, reason=str(volumes.missing()))
def test_a_loss_that_cannot_be_noted_names_the_volume(tmp_path: Path) -> None:
    with (
        volumes.tmpfs(tmp_path / "small", 1 << 20) as volume,
        Reporter(tracked(volume / "out"), total_steps=10, active=True) as reporter,
    ):
        volumes.fill(volume)
        with pytest.raises(VolumeError) as caught:
            step_done(reporter, 3)
    failure = caught.value.failure
    assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "DiskFull")
    assert failure.message.startswith(f"storage.output: no room on {volume / 'out'}, where 0 bytes are free: ")
    assert "give storage.output more room" in failure.message
