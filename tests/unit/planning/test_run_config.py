"""What the trainer is told is what the user wrote."""

from pathlib import Path
from typing import Any

import pytest

from finetune_contract import (
    BadRowPolicy,
    BadRows,
    BatchConfig,
    BatchRamp,
    ConstantSchedule,
    CosineSchedule,
    DataSource,
    DecayShape,
    DivergencePolicy,
    DivergenceRemedy,
    EvaluationConfig,
    FullMethod,
    HubKind,
    HubSource,
    LinearSchedule,
    MlflowConfig,
    ModelOrigin,
    NonFinitePolicy,
    PrepareConfig,
    RunConfig,
    S3Source,
    Schedule,
    StabilityConfig,
    TrackingConfig,
    ValidationConfig,
    VolumeSource,
    WarmupStableDecaySchedule,
)
from finetune_operator.planning import make_plan, prepare_config, run_config
from finetune_operator.resource import Qwen3FineTune
from unit.planning.runs import EXAMPLES, LOCATIONS, PREPARATION, REVISION, UID, example, report, run, shape


def attempt(wanted: Qwen3FineTune, number: int = 1) -> RunConfig:
    plan = make_plan(wanted, model=shape(wanted), dataset=report(longest_sequence=256), gpu_memory_bytes=None)
    return run_config(wanted, plan, PREPARATION, LOCATIONS, model_revision=REVISION, attempt=number, grace_seconds=300)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_survive_json(path: Path) -> None:
    wanted = example(path)
    config, preparation = attempt(wanted), prepare_config(wanted, LOCATIONS)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert PrepareConfig.model_validate_json(preparation.model_dump_json()) == preparation


def test_the_run_is_told_where_it_is_and_which_attempt() -> None:
    config = attempt(run(), number=3)
    assert (config.attempt, config.run.name, config.run.namespace, config.run.uid) == (3, "example", "team", UID)
    assert (config.model_dir, config.tokens_dir) == (PREPARATION.model_dir, PREPARATION.tokens_dir)
    assert (config.output_dir, config.progress_port, config.grace_seconds) == ("/output/example", 29501, 300)
    assert config.batch == BatchConfig(global_sequences=16, micro_sequences=1, accumulation_steps=16, world_size=1)


def test_the_trainer_is_told_where_the_model_came_from() -> None:
    """For what an adapter names as its base: never a folder of the cache."""
    assert attempt(run()).model_origin == ModelOrigin(hub=HubKind.HUGGING_FACE, id="Qwen/Qwen3-8B", revision=REVISION)
    assert attempt(run(model={"source": "Volume", "path": "tiny/model"})).model_origin is None


def test_volume_sources_lie_below_the_inputs() -> None:
    wanted = run(model={"source": "Volume", "path": "tiny/model"}, dataset={"path": "data/rows.json"})
    config = prepare_config(wanted, LOCATIONS)
    assert config.model == VolumeSource(path="/inputs/tiny/model")
    assert config.dataset.sources == (DataSource(source=VolumeSource(path="/inputs/data/rows.json")),)


def test_a_mix_keeps_its_order_and_weights_and_the_validation_its_own_source() -> None:
    store = {"source": "S3", "url": "s3://bucket/rows/", "s3": {"endpoint": "https://minio.example"}}
    hub = {"source": "ModelScope", "id": "team/rows", "file": "*.jsonl"}
    dataset = {"mix": [hub | {"weight": 2}, {"path": "a.csv", "weight": 0.5}], "validation": store}
    config = prepare_config(run(dataset=dataset), LOCATIONS).dataset
    repository = HubSource(hub=HubKind.MODEL_SCOPE, id="team/rows", revision="master")
    assert config.sources == (
        DataSource(source=repository, file="*.jsonl", weight=2),
        DataSource(source=VolumeSource(path="/inputs/a.csv"), weight=0.5),
    )
    objects = S3Source(url="s3://bucket/rows/", endpoint="https://minio.example", region="us-east-1")
    assert config.validation == ValidationConfig(source=DataSource(source=objects))
    assert prepare_config(run(), LOCATIONS).dataset.validation == ValidationConfig()


def test_the_policy_for_bad_rows_arrives() -> None:
    def bad_rows(**block: Any) -> BadRows:
        return prepare_config(run(dataset={"path": "a.json", "badRows": block}), LOCATIONS).dataset.bad_rows

    assert bad_rows() == BadRows(policy=BadRowPolicy.REFUSE)
    assert bad_rows(policy="Skip") == BadRows(policy=BadRowPolicy.SKIP)
    assert bad_rows(policy="Skip", limit=7) == BadRows(policy=BadRowPolicy.SKIP, limit=7)


@pytest.mark.parametrize(
    ("source", "revision", "expected"),
    [("HuggingFace", None, "main"), ("ModelScope", None, "master"), ("ModelScope", "v1.0", "v1.0")],
)
def test_each_hub_has_its_own_default_branch(source: str, revision: str | None, expected: str) -> None:
    model = {"id": "Qwen/Qwen3-8B", "source": source} | ({"revision": revision} if revision else {})
    config = prepare_config(run(model=model), LOCATIONS)
    assert config.model == HubSource(hub=HubKind(source), id="Qwen/Qwen3-8B", revision=expected)


def test_each_schedule_keeps_its_numbers() -> None:
    spec = {"warmupRatio": 0.1, "finalRatio": 0.2}
    cosine, linear = (attempt(run(training={"schedule": {"type": kind} | spec})) for kind in ("Cosine", "Linear"))
    constant = attempt(run(training={"schedule": {"type": "Constant", "warmupRatio": 0.1}}))
    assert cosine.schedule == CosineSchedule(warmup_ratio=0.1, final_ratio=0.2)
    assert linear.schedule == LinearSchedule(warmup_ratio=0.1, final_ratio=0.2)
    assert constant.schedule == ConstantSchedule(warmup_ratio=0.1)


def test_a_stable_schedule_keeps_its_numbers_and_has_defaults() -> None:
    def stable(**block: Any) -> Schedule:
        return attempt(run(training={"schedule": {"type": "WarmupStableDecay"} | block})).schedule

    assert stable() == WarmupStableDecaySchedule(
        warmup_ratio=0.03, decay_ratio=0.1, decay_shape=DecayShape.SQUARE_ROOT, final_ratio=0.0
    )
    assert stable(warmupSteps=3, decayRatio=0.5, decayShape="Cosine", finalRatio=0.2) == WarmupStableDecaySchedule(
        warmup_ratio=0.0, warmup_steps=3, decay_ratio=0.5, decay_shape=DecayShape.COSINE, final_ratio=0.2
    )


def test_a_warm_up_in_steps_goes_with_every_schedule() -> None:
    for kind in ("Cosine", "Linear", "Constant"):
        schedule = attempt(run(training={"schedule": {"type": kind, "warmupSteps": 3}})).schedule
        assert (schedule.warmup_steps, schedule.warmup_ratio) == (3, 0.0)


def test_a_growing_batch_arrives_whole() -> None:
    ramp = {"fromSamples": 8, "share": 0.5, "scaleRate": False}
    config = attempt(run(training={"globalBatch": {"samples": 32, "ramp": ramp}}, parallelism={"gpusPerNode": 4}))
    assert config.batch.ramp == BatchRamp(from_sequences=8, share=0.5, scale_rate=False)
    assert config.batch.sizes == (8, 16, 32)
    assert (config.batch.micro_sequences, config.batch.accumulation_steps) == (1, 8)


def test_what_is_decided_by_held_out_rows_arrives() -> None:
    def evaluation(**block: Any) -> EvaluationConfig:
        held_out = {"path": "rows.json", "validation": {"fraction": 0.1}}
        return attempt(run(dataset=held_out, evaluation=block)).evaluation

    assert evaluation() == EvaluationConfig()
    assert evaluation(everySteps=7, patience=2, minDelta=0.5) == EvaluationConfig(
        every_steps=7, patience=2, min_delta=0.5
    )
    assert evaluation(keepBest=True) == EvaluationConfig(keep_best=True)
    assert evaluation(loadBest=True) == EvaluationConfig(keep_best=True, load_best=True)


def test_by_default_a_run_is_kept_stable_as_the_trainer_would() -> None:
    assert attempt(run()).stability == StabilityConfig()


def test_the_limits_of_stability_arrive() -> None:
    limits = {"skipSteps": 0, "rollbacks": 7, "rateFactor": 0.25}
    assert attempt(run(stability={"nonFinite": limits})).stability == StabilityConfig(
        non_finite=NonFinitePolicy(skip_steps=0, rollbacks=7, rate_factor=0.25)
    )
    assert divergence(windowSteps=9, factor=3, rateFactor=0.1, remedies=["GradientClipping"]) == DivergencePolicy(
        window_steps=9, factor=3, rate_factor=0.1, remedies=(DivergenceRemedy.GRADIENT_CLIPPING,)
    )


def test_each_policy_for_a_diverging_loss_arrives() -> None:
    assert divergence(policy="Treat") == DivergencePolicy()
    assert divergence(policy="Warn", factor=2) == DivergencePolicy(remedies=None, factor=2)
    assert divergence(policy="Fail", windowSteps=20) == DivergencePolicy(remedies=(), window_steps=20)
    assert divergence(policy="Ignore") is None


def divergence(**block: Any) -> DivergencePolicy | None:
    return attempt(run(stability={"divergence": block})).stability.divergence


def test_full_and_the_optimizers_numbers_arrive() -> None:
    training = {"learningRate": 1e-5, "optimizer": {"beta2": 0.95, "weightDecay": 0.1}, "maxGradNorm": 0.5}
    config = attempt(run(method={"type": "Full"}, training=training))
    assert config.method == FullMethod()
    assert config.optimizer.peak_learning_rate == 1e-5
    assert (config.optimizer.beta1, config.optimizer.beta2, config.optimizer.weight_decay) == (0.9, 0.95, 0.1)
    assert config.optimizer.max_grad_norm == 0.5


@pytest.mark.parametrize("name", ["swanlab", "wandb"])
def test_without_a_key_a_tracker_stays_offline(name: str) -> None:
    keyed = {"project": "qwen3", "host": "https://own.example", "apiKeySecret": {"name": name, "key": "apiKey"}}
    offline, online = (
        getattr(attempt(run(tracking={name: settings})).tracking, name) for settings in ({"project": "qwen3"}, keyed)
    )
    assert (offline.online, offline.host) == (False, None)
    assert (online.online, online.host) == (True, "https://own.example")


def test_each_tracker_is_told_what_the_user_wrote() -> None:
    wanted = {
        "tensorboard": {},
        "swanlab": {"project": "qwen3", "workspace": "team"},
        "wandb": {"project": "qwen3", "entity": "team"},
        "mlflow": {"trackingUri": "http://mlflow:5000", "experiment": "huanhuan"},
    }
    told = attempt(run(tracking=wanted)).tracking
    assert told.tensorboard is not None
    assert told.swanlab is not None
    assert told.wandb is not None
    assert (told.swanlab.workspace, told.wandb.entity) == ("team", "team")
    assert told.mlflow == MlflowConfig(tracking_uri="http://mlflow:5000", experiment="huanhuan")
    assert attempt(run()).tracking == TrackingConfig()
