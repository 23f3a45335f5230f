"""What the world learns of a run: the Progress that is served, losses.jsonl, trackers, log lines.

Rank 0 alone reports.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from finetune_contract import Alarm, CheckpointReport, Indicators, Progress, RunConfig, SlowestRank, Stage
from finetune_contract.paths import ATTEMPTS, EXPERTS_FILE, LOSSES_FILE, PROGRESS_PORT_FILE_ENV
from finetune_trainer import pulse
from finetune_trainer.checkpoint import volume_errors
from finetune_trainer.measuring.expert_load import ExpertLoad
from finetune_trainer.measuring.meter import Figures
from finetune_trainer.measuring.readings import Reading
from finetune_trainer.measuring.straggler import Slowest
from finetune_trainer.serving import Snapshot, server
from finetune_trainer.trackers import FLUSH_SECONDS, Tracking, openers_of

log = logging.getLogger("finetune")

_TAIL_BYTES = 4096
_TRACKED = ("loss", "grad_norm", "learning_rate", "tokens_per_second", "epoch", "peak_memory_bytes")


def log_to_stderr(rank: int) -> None:
    """Set up this process's log: time, rank, event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s rank={rank} %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)


class Reporter:
    """Holds the run's latest Progress and passes on what happens."""

    def __init__(self, config: RunConfig, total_steps: int, *, active: bool, hosts: Sequence[str] = ()) -> None:
        """`hosts` are the names of the ranks' machines, in the order of ranks."""
        self._config, self._hosts = config, hosts
        self._active = active
        self._server: ThreadingHTTPServer | None = None
        self._tracking: Tracking | None = None
        self._losses_file = losses_file(config, config.attempt)
        self._ranks: tuple[Reading, ...] = ()
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
        now = self.progress = self.progress.model_copy(update={**changes, "updated_at": time.time()})
        pulse.own.say(now.stage, now.step, now.step_seconds)

    def enter(self, stage: Stage) -> None:
        """Note what the run is doing now; trackers are opened once it is known which step comes first."""
        if stage is not self.progress.stage:
            log.info("stage=%s step=%d", stage.value, self.progress.step)
        self.update(stage=stage)
        if stage is Stage.TRAINING and self._active and self._tracking is None:
            sent = last_reported_step(self._config)
            self._tracking = Tracking(
                openers_of(self._config), first_step=self.progress.step + 1, sent_step=max(sent, self.progress.step)
            )

    def step_done(self, *, tokens: int, applied: bool, figures: Figures, **changes: Any) -> None:
        """Note a finished step: progress, a line of losses.jsonl, a log line, the trackers."""
        raised = self.progress.alarms
        self._ranks = figures.sample.ranks
        self.update(
            tokens_per_second=figures.tokens_per_second, step_seconds=figures.step_seconds,
            peak_memory_bytes=figures.sample.peak_memory_bytes, indicators=figures.indicators, alarms=figures.alarms,
            slowest_rank=self._slowest(figures.slowest), **changes,
        )  # fmt: skip
        if not self._active:
            return
        now = self.progress
        line = {key: getattr(now, key) for key in ("step", "loss", "grad_norm", "learning_rate")}
        line |= {"tokens": tokens, "applied": applied}
        self._note(self._losses_file, line)
        log.info(
            "step=%d/%d loss=%.4f grad_norm=%.3g learning_rate=%.3g tokens_per_second=%.0f eta_seconds=%.0f",
            now.step, now.total_steps, now.loss, now.grad_norm or 0, now.learning_rate, now.tokens_per_second or 0,
            now.eta_seconds or 0,
        )  # fmt: skip
        _log_alarms(raised, now.alarms)
        self._track({key: getattr(now, key) for key in _TRACKED} | _known(figures.indicators))

    def validated(self, loss: float, *, best: float | None, best_step: int | None) -> None:
        """Note a validation loss, and the lowest so far."""
        self.update(validation_loss=loss, best_validation_loss=best, best_step=best_step)
        log.info("validation_loss=%.4f step=%d", loss, self.progress.step)
        self._track({"validation_loss": loss})

    def experts(self, step: int, load: ExpertLoad) -> None:
        """Note how a mixture's tokens were spread: a line of experts.jsonl, a log line, the trackers."""
        self.update(expert_imbalance_ratio=load.imbalance)
        if not self._active:
            return
        line = {"step": step, "shares": [[round(share, 5) for share in layer] for layer in load.shares]}
        self._note(self._losses_file.with_name(EXPERTS_FILE), line)
        log.info("experts at step=%d: %s", step, load)
        self._track({"expert_imbalance_ratio": load.imbalance})

    def saved(self, checkpoint: CheckpointReport) -> None:
        """Note a complete checkpoint."""
        self.update(checkpoint=checkpoint)
        log.info("checkpoint=%s bytes=%d seconds=%.2f", checkpoint.path, checkpoint.bytes, checkpoint.seconds)

    def _slowest(self, found: Slowest | None) -> SlowestRank | None:
        if found is None:
            return None
        return SlowestRank(rank=found.rank, host=self._hosts[found.rank], ratio=round(found.ratio, 3))

    def _snapshot(self) -> Snapshot:
        still = {"still_seconds": round(pulse.own.still_seconds, 3)}
        return Snapshot(self.progress.model_copy(update=still), self._ranks)

    def _note(self, notes: Path, line: dict[str, Any]) -> None:
        with volume_errors(Path(self._config.output_dir)), open(notes, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _track(self, values: dict[str, Any]) -> None:
        if self._tracking is not None:
            self._tracking.log(self.progress.step, values)
            self.update(trackers=self._tracking.reports())

    def __enter__(self) -> "Reporter":
        """On rank 0: serve on the run's progress port."""
        if self._active:
            self._losses_file.parent.mkdir(parents=True, exist_ok=True)
            self._server = server(self._snapshot, self._config.progress_port)
            port_file = os.environ.get(PROGRESS_PORT_FILE_ENV)
            if port_file:
                Path(port_file).write_text(str(self._server.server_port), encoding="utf-8")
            threading.Thread(target=self._server.serve_forever, name="progress", daemon=True).start()
            log.info("serving /progress, /metrics, /healthz on port %d", self._server.server_port)
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracking is not None:
            self._tracking.close(min(FLUSH_SECONDS, self._config.grace_seconds / 4))
            self.update(trackers=self._tracking.reports())
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def losses_file(config: RunConfig, attempt: int) -> Path:
    """Where an attempt of the run writes a line per step."""
    return Path(config.output_dir) / ATTEMPTS / str(attempt) / LOSSES_FILE


def last_reported_step(config: RunConfig) -> int:
    """The last step that earlier attempts told of; 0: none. A line that was cut off by a kill counts for nothing."""
    found = [0]
    for attempt in range(1, config.attempt):
        file = losses_file(config, attempt)
        if file.exists():
            with open(file, "rb") as lines:
                lines.seek(max(0, file.stat().st_size - _TAIL_BYTES))
                *whole, _ = lines.read().split(b"\n")
            found += [int(json.loads(line)["step"]) for line in whole[-1:]]
    return max(found)


def _known(indicators: Indicators) -> dict[str, float]:
    values: dict[str, float] = indicators.model_dump(exclude_none=True)
    return values


def _log_alarms(before: tuple[Alarm, ...], now: tuple[Alarm, ...]) -> None:
    known, holding = {alarm.indicator for alarm in before}, {alarm.indicator for alarm in now}
    for alarm in now:
        if alarm.indicator not in known:
            log.warning("alarm=%s value=%.3g threshold=%g: %s", alarm.indicator.value, alarm.value, alarm.threshold,
                        alarm.remedy)  # fmt: skip
    for alarm in before:
        if alarm.indicator not in holding:
            log.info("alarm=%s is over", alarm.indicator.value)
