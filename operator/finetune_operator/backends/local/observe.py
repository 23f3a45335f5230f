"""What the files and processes of a run show, in the words of `observation`."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from finetune_contract import Outcome, PrepareOutcome, Progress, PushOutcome
from finetune_operator.backends.local.folder import OUTCOME_FILE, AttemptFolder, RunFolder, read_json
from finetune_operator.backends.local.supervisor import EXIT_FILE
from finetune_operator.observation import Attempt, Preparation, Push, Worker, WorkerState

Report = TypeVar("Report", Outcome, PrepareOutcome, PushOutcome)

PROGRESS_TIMEOUT_SECONDS = 2
_KILLED = 128 + 9
"""A supervisor writes an exit code unless it is killed itself."""


def preparation(folder: RunFolder, marks: set[str], uid: str) -> Preparation | None:
    """The preparation; None: there is none."""
    started = read_json(folder.prepare / "started.json")
    if started is None:
        return None
    state, exit_code = _state(folder.prepare, is_alive=prepare_mark(uid) in marks)
    return Preparation(
        state=state,
        created_at=started["at"],
        exit_code=exit_code,
        outcome=_outcome(PrepareOutcome, folder.prepare / OUTCOME_FILE),
    )


def attempt(number: int, folder: AttemptFolder, marks: set[str], uid: str) -> Attempt:
    """An attempt that has been started."""
    started = read_json(folder.started_file)
    num_nodes: int = started["num_nodes"]
    workers = tuple(_worker(number, index, folder, marks, uid) for index in range(num_nodes))
    runs = any(worker.state is WorkerState.RUNNING for worker in workers)
    return Attempt(
        number=number,
        workers=workers,
        num_nodes=num_nodes,
        created_at=started["at"],
        is_being_deleted=folder.stopping_file.exists(),
        is_failed=any(worker.state is WorkerState.FAILED for worker in workers),
        progress=_progress(folder.progress_port_file) if runs else None,
    )


def push(folder: RunFolder, marks: set[str], uid: str) -> Push | None:
    """The newest push; None: there is none."""
    numbers = folder.pushes()
    if not numbers:
        return None
    number = numbers[-1]
    own = folder.push(number)
    started = read_json(own / "started.json")
    state, exit_code = _state(own, is_alive=push_mark(uid, number) in marks)
    return Push(
        number=number,
        target=started["target"],
        request=started["request"],
        state=state,
        created_at=started["at"],
        exit_code=exit_code,
        outcome=_outcome(PushOutcome, own / OUTCOME_FILE),
    )


def push_mark(uid: str, number: int) -> str:
    """The mark of a push's process; ends like no other's begins, since marks are looked for by their beginning."""
    return f"{uid}/push/{number}/"


def prepare_mark(uid: str) -> str:
    """The mark of the preparation's processes."""
    return f"{uid}/prepare"


def attempt_mark(uid: str, number: int) -> str:
    """How the marks of an attempt's processes begin."""
    return f"{uid}/{number}/"


def forget(folder: Path) -> None:
    """A process that is started in `folder` will find no word of an earlier one."""
    for name in (OUTCOME_FILE, EXIT_FILE):
        (folder / name).unlink(missing_ok=True)


def _worker(number: int, index: int, folder: AttemptFolder, marks: set[str], uid: str) -> Worker:
    node = folder.node(index)
    state, exit_code = _state(node, is_alive=f"{attempt_mark(uid, number)}{index}" in marks)
    return Worker(
        index=index,
        name=node.name,
        state=state,
        is_terminating=state is WorkerState.RUNNING and folder.stopping_file.exists(),
        exit_code=exit_code,
        outcome=_outcome(Outcome, node / OUTCOME_FILE),
    )


def _state(folder: Path, *, is_alive: bool) -> tuple[WorkerState, int | None]:
    # a rank may outlive its launcher: as long as anything with the worker's mark lives, the worker does
    if is_alive:
        return WorkerState.RUNNING, None
    ended = read_json(folder / EXIT_FILE)
    exit_code: int = _KILLED if ended is None else ended["exit_code"]
    return (WorkerState.FAILED if exit_code else WorkerState.SUCCEEDED), exit_code


def _outcome(model: type[Report], file: Path) -> Report | None:
    """What the process left as its last words; None: nothing, or nothing whole."""
    try:
        return model.model_validate_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


def _progress(port_file: Path) -> Progress | None:
    """Rank 0's answer; None while it has not said where it serves, and whenever it does not answer."""
    try:
        port = int(port_file.read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=PROGRESS_TIMEOUT_SECONDS) as answer:
            return Progress.model_validate(json.load(answer))
    except (OSError, ValueError, urllib.error.URLError):
        return None
