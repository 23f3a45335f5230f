"""A plan for people: as it stands in the status, and as the command line prints it."""

from finetune_operator.planning.batch import batch_words, stage_words
from finetune_operator.planning.memory import total
from finetune_operator.planning.plan import Plan
from finetune_operator.planning.quantities import GIB, gib
from finetune_operator.planning.strategy import parallelism_words
from finetune_operator.planning.topology import Topology
from finetune_operator.resource import Model
from finetune_operator.status import BatchStageStatus, MemoryComponent, PlanStatus


def plan_status(plan: Plan, model: Model) -> PlanStatus:
    """`plan` of a run that starts from `model`, as it stands in the resource's status."""
    return PlanStatus(
        model=model.id or f"{model.path} (volume)",
        method=plan.method.type,
        strategy=parallelism_words(plan.parallelism),
        nodes=plan.nodes,
        gpus=plan.batch.world_size,
        micro_batch=plan.batch.micro_sequences,
        accumulation_steps=plan.batch.accumulation_steps,
        global_batch=plan.batch.global_sequences,
        activation_checkpointing=plan.activation_checkpointing,
        total_steps=plan.total_steps,
        memory=tuple(MemoryComponent(name=line.name, bytes=line.bytes) for line in plan.memory),
        memory_bytes=total(plan.memory),
        gpu_memory_bytes=plan.gpu_memory_bytes,
        batch=batch_words(plan.batch),
        stages=tuple(
            BatchStageStatus(
                samples=stage.global_sequences,
                accumulation_steps=stage.accumulation_steps,
                first_step=stage.first_step,
            )
            for stage in plan.stages
        ),
        final=plan.is_final,
    )


def render_plan(plan: Plan) -> str:
    """`plan` in lines of text: strategy, ranks, batch arithmetic, steps, and the memory table with what is left."""
    steps = "known once the dataset is prepared" if plan.total_steps is None else f"{plan.total_steps:,}"
    heads = {
        "strategy": f"{parallelism_words(plan.parallelism)}, activation checkpointing {plan.activation_checkpointing}",
        "ranks": _ranks(plan),
        "batch": batch_words(plan.batch),
        **({"grows": stage_words(plan.stages)} if plan.stages else {}),
        "steps": steps,
        "based on": "the prepared dataset" if plan.is_final else "maxTokens; final once the dataset is prepared",
    }
    return "\n".join([*(f"{name:<10}{text}" for name, text in heads.items()), *_memory_lines(plan)])


def _ranks(plan: Plan) -> str:
    topology = Topology(nodes=plan.nodes, gpus_per_node=plan.gpus_per_node)
    if topology.world_size == 1:
        return f"{topology}"
    spans = [topology.ranks(node) for node in range(plan.nodes)]
    shown = [f"{span[0]}-{span[-1]} on node {node}" for node, span in enumerate(spans)]
    if len(shown) > 4:
        shown = [*shown[:2], "...", shown[-1]]
    return f"{topology} = {topology.world_size}: {', '.join(shown)}"


def _memory_lines(plan: Plan) -> list[str]:
    if not plan.memory:
        return ["memory    known once the model is prepared"]
    needed = total(plan.memory)
    table = [(line.name, line.bytes) for line in plan.memory] + [("sum", needed)]
    rows = [f"  {name:<28}{_gib(size):>8} GiB" for name, size in table]
    return ["memory of one GPU, estimated", *rows, f"  {_margin(plan, needed)}"]


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f}" if size_bytes >= GIB / 200 else "< 0.01"


def _margin(plan: Plan, needed: int) -> str:
    have = plan.gpu_memory_bytes
    if have is None:
        return "the GPU's memory is not known, so fit was not checked; state it in spec.resources.gpuMemory"
    return f"of {gib(have)}: fits, {gib(have - needed)} ({(have - needed) / have:.0%}) to spare"
