"""Whatever a run is, and whatever remedies it allows: the ladder comes to an end, and the losses stay the same."""

import itertools
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_contract import ModelFacts, RunConfig, Steps
from finetune_operator.failures import Cause, Ending
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.recovery import recovered
from finetune_operator.observation import Observation
from finetune_operator.planning import Plan, PlanError, make_plan, run_config
from finetune_operator.planning.memory import total
from finetune_operator.planning.models import SHAPES
from finetune_operator.planning.quantities import GIB
from finetune_operator.resource import MemoryRemedy, Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import MAX_REMEDIES, RecoveryStatus, Status
from unit.planning.runs import LOCATIONS, PREPARATION, REVISION, TINY, report, run

ENDING = Ending(cause=Cause.OUT_OF_MEMORY, reason="OutOfMemory", message="")
MAY_CHANGE = {"batch", "parallelism", "activation_checkpointing", "checkpoint", "attempt"}
"""Of what the trainer is told; of the batch and the checkpoints see below."""

PARALLELISMS: list[dict[str, Any]] = [
    {},
    {"strategy": "DDP", "activationCheckpointing": "None"},
    {"strategy": "FSDP", "fsdp": {"reshardAfterForward": False}},
    {"strategy": "FSDP", "fsdp": {"cpuOffload": True}},
    {"strategy": "DeepSpeed", "deepspeed": {"stage": 1}},
    {"strategy": "DeepSpeed", "deepspeed": {"stage": 2, "offloadOptimizer": "CPU"}},
    {"strategy": "DeepSpeed", "deepspeed": {"stage": 3, "overlapCommunication": False}},
]
BATCHES: list[dict[str, Any]] = [
    {"samples": 16},
    {"samples": 48},
    {"samples": 1024},
    {"samples": 96, "ramp": {"fromSamples": 24}},
]
SPECS = st.fixed_dictionaries(
    {
        "method": st.sampled_from([{"type": "LoRA"}, {"type": "QLoRA"}, {"type": "Full"}]),
        "training": st.builds(
            lambda batch, precision: {"globalBatch": batch, "precision": precision, "seed": 7},
            st.sampled_from(BATCHES),
            st.sampled_from(["Bf16", "Fp32"]),
        ),
        "parallelism": st.builds(
            lambda nodes, gpus, rest: {"nodes": nodes, "gpusPerNode": gpus} | rest,
            st.sampled_from([1, 2]),
            st.sampled_from([1, 2, 4]),
            st.sampled_from(PARALLELISMS),
        ),
        "resources": st.builds(lambda memory: {"memoryPerGpu": memory}, st.sampled_from(["64Gi", "512Gi"])),
        "recovery": st.builds(
            lambda order, number: {"onOutOfMemory": order[:number]},
            st.permutations([str(remedy) for remedy in MemoryRemedy]),
            st.integers(0, len(MemoryRemedy)),
        ),
    }
)


@dataclass(frozen=True)
class Rung:
    """What an attempt runs with."""

    recovery: RecoveryStatus | None
    plan: Plan
    config: RunConfig


def planned(wanted: Qwen3FineTune, model: ModelFacts, gib: int | None, recovery: RecoveryStatus | None) -> Any:
    memory = None if gib is None else gib * GIB
    try:
        return make_plan(wanted, model=model, dataset=report(), gpu_memory_bytes=memory, recovery=recovery)
    except PlanError as refused:
        return refused


def climbed(wanted: Qwen3FineTune, model: ModelFacts, gib: int | None) -> list[Rung]:
    """Every attempt of a run that never has memory enough. Only what is in the status is carried on, as text."""
    view = View(
        run=wanted,
        observation=Observation(),
        plan=lambda recovery: planned(wanted, model, gib, recovery),
        settings=Settings(),
        now=0.0,
    )
    rungs, body = list[Rung](), "{}"
    while True:
        status = Status.model_validate(json.loads(body))
        plan = view.plan(status.recovery)
        if isinstance(plan, PlanError):
            assert not rungs, "a remedy led to a plan that is refused"
            return rungs
        number = len(rungs) + 1
        config = run_config(
            wanted, plan, PREPARATION, LOCATIONS, model_revision=REVISION, attempt=number, grace_seconds=300
        )
        rungs.append(Rung(status.recovery, plan, config))
        recovery = recovered(ENDING, number, status, view)
        assert recovery == recovered(ENDING, number, status, view), "the same status, the same remedy"
        if recovery is None:
            return rungs
        body = json.dumps(status.model_copy(update={"recovery": recovery}).to_body())


@settings(max_examples=60, deadline=None)
@given(spec=SPECS, model=st.sampled_from([TINY, SHAPES["0.6B"], SHAPES["8B"]]), gib=st.sampled_from([None, 24, 80]))
def test_no_sequence_of_remedies_changes_what_is_learnt(
    spec: dict[str, Any], model: ModelFacts, gib: int | None
) -> None:
    wanted = run(**spec)
    rungs = climbed(wanted, model, gib)
    for before, after in itertools.pairwise(rungs):
        may_change, remedy = MAY_CHANGE, after.recovery.remedies[-1].remedy if after.recovery else None
        if remedy == "QLoRA":
            may_change = may_change | {"method"}
        assert before.config.model_dump(exclude=may_change) == after.config.model_dump(exclude=may_change)
        cut = {"micro_sequences", "accumulation_steps"}
        assert before.config.batch.model_dump(exclude=cut) == after.config.batch.model_dump(exclude=cut)
        kept = {"every_steps", "keep"}
        assert before.config.checkpoint.model_dump(include=kept) == after.config.checkpoint.model_dump(include=kept)
        assert steps(before) == steps(after), "every step takes the same sequences"


def steps(rung: Rung) -> list[Any]:
    found = Steps(report().sequences, rung.config.batch, epochs=rung.config.epochs, max_steps=rung.config.max_steps)
    return [found[number] for number in range(1, found.total + 1)]


@settings(max_examples=60, deadline=None)
@given(spec=SPECS, model=st.sampled_from([TINY, SHAPES["0.6B"], SHAPES["8B"]]), gib=st.sampled_from([None, 24, 80]))
def test_every_remedy_is_allowed_takes_less_and_the_last_comes_soon(
    spec: dict[str, Any], model: ModelFacts, gib: int | None
) -> None:
    wanted = run(**spec)
    rungs = climbed(wanted, model, gib)
    remedies = rungs[-1].recovery.remedies if rungs and rungs[-1].recovery else ()
    assert len(remedies) == max(0, len(rungs) - 1) < MAX_REMEDIES
    assert {each.remedy for each in remedies} <= set(spec["recovery"]["onOutOfMemory"])
    sizes = [total(rung.plan.memory) for rung in rungs]
    assert all(later < earlier for earlier, later in itertools.pairwise(sizes)), sizes
