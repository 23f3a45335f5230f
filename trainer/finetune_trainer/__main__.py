"""One rank of an attempt: `python -m finetune_trainer RUN_JSON`, started by finetune_trainer.launch.

Torch is imported late: a signal that arrives during its many seconds must find a handler.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from finetune_contract import ExitCode, Outcome, RunConfig

OUTCOMES_DIR_ENV = "FINETUNE_OUTCOMES_DIR"
"""Where the ranks of a node tell their launcher that they answer signals, that they have met, and what they came to."""


class StopFlag:
    """Asked by the recipe wherever a run may end; set by SIGTERM and SIGINT, as often as they come."""

    def __init__(self) -> None:
        self.requested = False
        self._first_at = 0.0
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, self._request)

    def _request(self, _signal: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self._first_at = time.monotonic()
        self.requested = True

    @property
    def seconds(self) -> float:
        """Since the first signal; 0 before."""
        return time.monotonic() - self._first_at if self.requested else 0.0


def main(arguments: list[str]) -> int:
    """Run this rank to its end, write its outcome and return its exit code."""
    stop = StopFlag()
    rank = int(os.environ["RANK"])
    outcomes = Path(os.environ[OUTCOMES_DIR_ENV])
    (outcomes / f"rank-{rank}.pid").write_text(str(os.getpid()), encoding="utf-8")
    outcome = _outcome(Path(arguments[0]), rank, stop, outcomes / f"rank-{rank}.met")
    # written beside and renamed, since the launcher may look at any time
    growing = outcomes / f"rank-{rank}.growing"
    growing.write_text(outcome.model_dump_json(), encoding="utf-8")
    growing.rename(outcomes / f"rank-{rank}.json")
    return int(outcome.exit_code)


def _outcome(config_file: Path, rank: int, stop: StopFlag, met: Path) -> Outcome:
    from finetune_trainer import distributed, recipe, reporting, running
    from finetune_trainer.failures import failure_of

    reporting.log_to_stderr(rank)
    position = running.Position()
    try:
        config = RunConfig.model_validate_json(config_file.read_text(encoding="utf-8"))
        world = distributed.join()
        met.touch()
        outcome = recipe.run(config, world, stop, position)
        distributed.leave()
        return outcome
    except Exception as error:  # the one place where an error becomes an outcome
        reporting.log.exception("failed at step=%d", position.step)
        failure = failure_of(error, rank=rank, step=position.step)
        return Outcome(
            exit_code=failure.exit_code,
            failure=failure,
            checkpoint=position.checkpoint,
            step=position.step,
            interventions=position.stability.interventions,
        )


def leave(code: int) -> NoReturn:
    """End this process with `code`.

    Without the interpreter's clean-up, if it could wait for ever: after a failure a communication thread may never come
    to an end, and neither may a tracker whose server is gone.
    """
    from finetune_trainer.trackers import any_left_behind

    if code == ExitCode.DONE and not any_left_behind():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
