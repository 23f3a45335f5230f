"""The preparation's record: what it found, or why it failed and whether it is tried again."""

from finetune_contract import DatasetReport, ModelFacts, PrepareOutcome
from finetune_operator.failures import Budget, Verdict, classify_preparation, decide
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import Action, ClearPreparation, StartPreparation, View
from finetune_operator.lifecycle.finals import given_up
from finetune_operator.observation import Preparation, WorkerState
from finetune_operator.status import (
    MAX_ATTEMPTS,
    DatasetStatus,
    ModelStatus,
    PreparationFailureStatus,
    PreparationStatus,
    Status,
)


def known_facts(status: Status, preparation: Preparation | None) -> tuple[ModelFacts | None, DatasetReport | None]:
    """What is known of model and dataset: by the record, else by the preparation that has just ended."""
    if status.model is not None and status.dataset is not None:
        shape = status.model.model_dump(exclude={"revision"})
        return ModelFacts.model_validate(shape), DatasetReport.model_validate(status.dataset.model_dump())
    outcome = preparation.outcome if preparation is not None else None
    return (outcome.model, outcome.dataset) if outcome is not None else (None, None)


def with_preparation(status: Status, view: View) -> Status:
    """`status` with the end of the observed preparation recorded, once."""
    preparation = view.observation.preparation
    if preparation is None or status.preparation is not None:
        return status
    if preparation.state is WorkerState.SUCCEEDED and _is_complete(preparation.outcome):
        assert preparation.outcome is not None
        return _prepared(status, preparation.outcome, view.now)
    if preparation.state in (WorkerState.SUCCEEDED, WorkerState.FAILED):
        return _failed(status, preparation, view)
    return status


def preparation_actions(preparation: Preparation | None, *, is_wanted: bool) -> tuple[Action, ...]:
    """What brings an unfinished preparation on its way, or ends it; one that failed is cleared before the next try."""
    if preparation is None:
        return (StartPreparation(),) if is_wanted else ()
    if preparation.is_being_deleted or is_alive(preparation) == is_wanted:
        return ()
    return (ClearPreparation(),)


def is_alive(preparation: Preparation | None) -> bool:
    """Whether a process of the preparation runs, or may still start."""
    return preparation is not None and preparation.state in (WorkerState.WAITING, WorkerState.RUNNING)


def _is_complete(outcome: PrepareOutcome | None) -> bool:
    return outcome is not None and None not in (outcome.model, outcome.dataset, outcome.model_dir, outcome.tokens_dir)


def _prepared(status: Status, outcome: PrepareOutcome, now: float) -> Status:
    assert outcome.model is not None
    assert outcome.dataset is not None
    record = PreparationStatus(
        model_dir=outcome.model_dir or "", tokens_dir=outcome.tokens_dir or "", finished_at=text.timestamp(now)
    )
    model = ModelStatus(revision=outcome.model_revision, **outcome.model.model_dump())
    dataset = DatasetStatus(**outcome.dataset.model_dump())
    return status.model_copy(update={"preparation": record, "model": model, "dataset": dataset})


def _failed(status: Status, preparation: Preparation, view: View) -> Status:
    started_at = text.timestamp(preparation.created_at)
    known = status.preparation_failures
    if any(failure.started_at == started_at for failure in known):
        return status
    ending = classify_preparation(preparation)
    counted = sum(failure.decision == Verdict.RETRY for failure in known)
    verdict = decide(ending, Budget(failures=counted, max_restarts=view.run.spec.recovery.max_restarts))
    record = PreparationFailureStatus(
        started_at=started_at,
        cause=str(ending.cause),
        message=text.shortened(ending.message, 1024),
        decision=str(verdict),
    )
    status = status.model_copy(update={"preparation_failures": (*known, record)[-MAX_ATTEMPTS:]})
    return given_up(status, ending.reason, ending.message, view) if verdict is Verdict.GIVE_UP else status
