from finetune_operator.planning import make_plan, plan_status, render_plan
from finetune_operator.planning.models import SHAPES
from finetune_operator.planning.quantities import GIB
from finetune_operator.resource import Model, Source
from unit.planning.runs import report, run

TWO_NODES = run(parallelism={"nodes": 2, "gpusPerNode": 4}, training={"globalBatch": {"samples": 16}})


def test_a_plan_is_printed_with_its_arithmetic() -> None:
    made = make_plan(TWO_NODES, model=SHAPES["8B"], dataset=report(), gpu_memory_bytes=80 * GIB)
    text = render_plan(made)
    assert "strategy  DDP, activation checkpointing None" in text
    assert "ranks     2 nodes x 4 GPUs = 8: 0-3 on node 0, 4-7 on node 1" in text
    assert "batch     16 samples = 1 per GPU x 8 GPUs x 2 accumulation" in text
    assert "steps     15" in text
    assert "based on  the prepared dataset" in text
    assert "  weights                        15.26 GiB" in text
    assert "of 80.0 GiB: fits, 25.7 GiB (32%) to spare" in text


def test_what_is_not_known_is_said() -> None:
    text = render_plan(make_plan(TWO_NODES, model=None, dataset=None, gpu_memory_bytes=None))
    assert "steps     known once the dataset is prepared" in text
    assert "fit was not checked; state it in spec.resources.gpuMemory" in text
    unknown = run(model={"source": "Volume", "path": "mine"})
    assert "known once the model is prepared" in render_plan(
        make_plan(unknown, model=None, dataset=None, gpu_memory_bytes=None)
    )


def test_many_nodes_are_shortened() -> None:
    many = run(parallelism={"nodes": 32, "gpusPerNode": 8}, training={"globalBatch": {"samples": 256}})
    text = render_plan(make_plan(many, model=None, dataset=None, gpu_memory_bytes=80 * GIB))
    assert "0-7 on node 0, 8-15 on node 1, ..., 248-255 on node 31" in text


def test_the_status_says_the_same() -> None:
    made = make_plan(TWO_NODES, model=SHAPES["8B"], dataset=report(), gpu_memory_bytes=80 * GIB)
    status = plan_status(made, TWO_NODES.spec.model)
    assert (status.strategy, status.gpus, status.micro_batch, status.accumulation_steps) == ("DDP", 8, 1, 2)
    assert (status.total_steps, status.final, status.gpu_memory_bytes) == (15, True, 80 * GIB)
    assert status.memory_bytes == sum(line.bytes for line in status.memory)
    unchecked = plan_status(
        make_plan(TWO_NODES, model=None, dataset=None, gpu_memory_bytes=None),
        Model(source=Source.VOLUME, path="models/qwen3"),
    )
    assert (status.model, unchecked.model) == (TWO_NODES.spec.model.id, "models/qwen3 (volume)")
    assert (unchecked.gpu_memory_bytes, unchecked.total_steps, unchecked.final) == (None, None, False)


def test_strategies_are_named_with_what_they_offload() -> None:
    offload = {"stage": 3, "offloadOptimizer": "CPU", "offloadParameters": "CPU"}
    blocks = {
        "DeepSpeed ZeRO-3, optimizer and parameters on CPU": {"strategy": "DeepSpeed", "deepspeed": offload},
        "DeepSpeed ZeRO-2": {"strategy": "DeepSpeed"},
        "FSDP, shards on CPU": {"strategy": "FSDP", "fsdp": {"cpuOffload": True}},
        "FSDP, weights kept after forward": {"strategy": "FSDP", "fsdp": {"reshardAfterForward": False}},
    }
    for words, block in blocks.items():
        made = make_plan(run(parallelism=block), model=SHAPES["8B"], dataset=None, gpu_memory_bytes=None)
        assert plan_status(made, TWO_NODES.spec.model).strategy == words
