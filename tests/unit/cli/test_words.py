"""What is said at the end, and shown on the way."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune_operator.backends.local import RunFolder
from finetune_operator.cli.screen import LiveScreen, PlainScreen, figures
from finetune_operator.cli.words import closing_words, exit_code, opening_words
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.progress import progress_status
from finetune_operator.status import (
    ArtifactStatus,
    AttemptStatus,
    CheckpointStatus,
    FailureStatus,
    Phase,
    PreparationFailureStatus,
    PushedStatus,
    PushStatus,
    Status,
)
from support.runs import START, progress, there

NOW = text.timestamp(START)


def attempt(cause: str, **fields: Any) -> AttemptStatus:
    return AttemptStatus(number=1, started_at=NOW, cause=cause, **fields)


def failed(**fields: Any) -> Status:
    failure = FailureStatus(reason="BadRows", message="rows 3 and 7 have no answer", observed_generation=1)
    return Status(phase=Phase.FAILED, failure=failure, **fields)


REFUSED_DATA = PreparationFailureStatus(started_at=NOW, cause="UserError", message="", decision="GiveUp")


ADAPTER = ArtifactStatus(kind="Adapter", path="/runs/a/adapter", digest="sha256:1", bytes=1)


def pushed(cause: str, decision: str = "GiveUp") -> PushStatus:
    return PushStatus(number=2, target="t", request="r", started_at=NOW, cause=cause, decision=decision)


def trained(**fields: Any) -> dict[str, Any]:
    """What a run knows whose training is complete."""
    return {"attempts": (attempt("Done"),), "artifacts": (ADAPTER,)} | fields


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status(phase=Phase.SUCCEEDED), 0),
        (Status(phase=Phase.SUSPENDED), 75),
        (failed(attempts=(attempt("OutOfMemory"),)), 65),
        (failed(attempts=(attempt("NotANumber"),)), 66),
        (failed(attempts=(attempt("Infrastructure"),)), 67),
        (failed(attempts=(attempt("Unexpected"),)), 1),
        (failed(preparation_failures=(REFUSED_DATA,)), 64),
        (failed(), 64),
        (failed(**trained(push=pushed("UserError"))), 64),
        (failed(**trained(push=pushed("Infrastructure"))), 67),
        (failed(**trained(push=pushed("Unexpected"))), 1),
        (failed(**trained(push=pushed("Done", "Finish"))), 64),
        (failed(**trained()), 64),
    ],
)
def test_exit_codes_say_what_happened(status: Status, code: int) -> None:
    assert exit_code(status) == code


def test_a_failure_shows_cause_log_and_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "attempts" / "1" / "node-0" / "output.log"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    words = closing_words(failed(attempts=(attempt("UserError", rank=0),)), RunFolder(tmp_path))
    assert words.startswith("failed: BadRows: rows 3 and 7 have no answer")
    assert str(log) in words
    assert "line 99" in words
    assert "line 10\n" not in words


def test_a_refused_plan_has_no_log(tmp_path: Path) -> None:
    assert closing_words(failed(), RunFolder(tmp_path)) == "failed: BadRows: rows 3 and 7 have no answer"


def test_success_shows_where_the_adapter_is_and_how_to_load_it(tmp_path: Path) -> None:
    serve = "vllm serve Qwen/Qwen3-8B --enable-lora --lora-modules a=/runs/a/adapter"
    adapter = ArtifactStatus(kind="Adapter", path="/runs/a/adapter", digest="sha256:1", bytes=1, serve=serve)
    words = closing_words(Status(phase=Phase.SUCCEEDED, artifacts=(adapter,)), RunFolder(tmp_path))
    assert "Adapter: /runs/a/adapter (sha256:1)" in words
    assert 'AutoPeftModelForCausalLM.from_pretrained("/runs/a/adapter")' in words
    assert words.endswith(f"serve it:\n    {serve}")


def test_success_shows_where_it_was_pushed(tmp_path: Path) -> None:
    place = PushedStatus(url="https://huggingface.co/me/a/tree/main", commit="c0ffee")
    adapter = ADAPTER.model_copy(update={"pushed": place})
    words = closing_words(Status(phase=Phase.SUCCEEDED, artifacts=(adapter,)), RunFolder(tmp_path))
    assert "    pushed to https://huggingface.co/me/a/tree/main (commit c0ffee)" in words.splitlines()


def test_a_failed_push_shows_its_own_log_and_what_was_made(tmp_path: Path) -> None:
    log = RunFolder(tmp_path).log_of_push(2)
    log.parent.mkdir(parents=True)
    log.write_text("the hub said no")
    words = closing_words(failed(**trained(push=pushed("UserError"))), RunFolder(tmp_path))
    assert str(log) in words
    assert "the hub said no" in words
    assert "Adapter: /runs/a/adapter (sha256:1)" in words


def test_a_push_that_was_stopped_is_told_with_what_was_made(tmp_path: Path) -> None:
    words = closing_words(Status(phase=Phase.SUSPENDED, **trained()), RunFolder(tmp_path))
    assert words.startswith("stopped before its results were pushed; the same command pushes them")
    assert "Adapter: /runs/a/adapter" in words


def test_a_run_that_has_only_its_push_left_says_so() -> None:
    assert opening_words(Status(**trained())) == "the training is complete; only its push is left"


def test_a_run_that_goes_on_says_from_where() -> None:
    checkpoint = CheckpointStatus(step=40, path="", bytes=1)
    assert opening_words(Status()) is None
    words = opening_words(Status(attempts=(attempt("Suspended"),), checkpoint=checkpoint))
    assert words == "goes on from the checkpoint of step 40; attempt 1 ended as Suspended"


def running(step: int) -> Status:
    return Status(phase=Phase.RUNNING, progress=progress_status(progress(1, step, at=START)))


def test_success_tells_what_was_not_as_usual(tmp_path: Path) -> None:
    note = "the loss has risen from 2 to 9 by step 60: back to the weights of step 5, learning rate x 0.5"
    last = progress(1, 90, at=START, best_validation_loss=1.5, best_step=80, skipped_steps=3, interventions=(note,))
    status = Status(
        phase=Phase.SUCCEEDED, progress=progress_status(last), final_loss="1.2000", validation_loss="1.5000",
        stopped_early=True, artifacts_step=80, artifacts=(ADAPTER,),
    )  # fmt: skip
    assert closing_words(status, RunFolder(tmp_path)).splitlines()[:5] == [
        "done: 90 steps, final loss 1.2000, validation loss 1.5000",
        "ended early: the validation loss was lowest, 1.5000 at step 80",
        "made from the weights of step 80",
        "steps that changed nothing, since loss or gradient norm was not finite: 3",
        f"intervened: {note}",
    ]
    usual = status.model_copy(
        update={"stopped_early": False, "artifacts_step": 90, "progress": progress_status(progress(1, 90, at=START))}
    )
    assert closing_words(usual, RunFolder(tmp_path)).splitlines()[1].startswith("Adapter: ")


def test_figures_tell_the_best_beside_the_newest_and_what_was_skipped() -> None:
    held_out = {"validation_loss": 1.75, "best_validation_loss": 1.5, "best_step": 20}
    worse, best = (
        progress_status(progress(1, 30, at=START, **held_out | change))
        for change in ({"skipped_steps": 2}, {"validation_loss": 1.5})
    )
    assert "  validation 1.7500 (best 1.5000 at step 20)  2 skipped  " in figures(worse)
    assert "  validation 1.5000  1,000 tokens/s" in figures(best)


def test_figures_leave_out_what_is_not_known() -> None:
    assert figures(there(running(3).progress)) == "loss 2.0000  1,000 tokens/s  ETA 1h12m"


def test_plain_lines_tell_phases_once_and_steps_now_and_then() -> None:
    out = io.StringIO()
    with PlainScreen(Console(file=out)) as screen:
        for step in (1, 2, 3):
            screen.show(running(step))
    assert out.getvalue().splitlines() == [
        "phase=Running",
        "step 1/100  loss 2.0000  1,000 tokens/s  ETA 1h12m",
    ]


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    with LiveScreen(Console(file=out, force_terminal=True, width=120)) as screen:
        screen.show(Status(phase=Phase.PREPARING))
        screen.show(running(42))
        screen.say("an event")
    assert "42/100" in out.getvalue()
    assert "an event" in out.getvalue()
