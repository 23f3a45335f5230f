"""What the trainer is told: the resource and the plan in the contract's words."""

from pathlib import PurePosixPath

from finetune_contract import (
    BadRowPolicy,
    BadRows,
    CheckpointConfig,
    ConstantSchedule,
    CosineSchedule,
    DatasetConfig,
    DatasetFormat,
    DataSource,
    DecayShape,
    DivergencePolicy,
    DivergenceRemedy,
    EvaluationConfig,
    HubKind,
    HubSource,
    LinearSchedule,
    MlflowConfig,
    ModelOrigin,
    ModelSource,
    NonFinitePolicy,
    OptimizerConfig,
    OverlongPolicy,
    Precision,
    PrepareConfig,
    RunConfig,
    RunIdentity,
    S3Source,
    Schedule,
    StabilityConfig,
    Supervise,
    SwanLabConfig,
    TensorBoardConfig,
    Thinking,
    TrackingConfig,
    ValidationConfig,
    VolumeSource,
    WandbConfig,
    WarmupStableDecaySchedule,
)
from finetune_operator.planning.plan import Locations, Plan, trained_method
from finetune_operator.planning.push import DEFAULT_BRANCH
from finetune_operator.resource import DataSource as ResourceDataSource
from finetune_operator.resource import (
    Divergence,
    DivergenceAction,
    Evaluation,
    MixSource,
    Model,
    Qwen3FineTune,
    S3Access,
    ScheduleType,
    Stability,
    Tracking,
    Training,
)
from finetune_operator.status import PreparationStatus


def prepare_config(run: Qwen3FineTune, locations: Locations) -> PrepareConfig:
    """What the preparation of `run` is told."""
    return PrepareConfig(
        run=_identity(run),
        model=_source(run.spec.model, locations),
        dataset=_dataset(run, locations),
        method=trained_method(run),
        cache_dir=locations.cache_dir,
    )


def run_config(
    run: Qwen3FineTune,
    plan: Plan,
    preparation: PreparationStatus,
    locations: Locations,
    *,
    model_revision: str | None,
    attempt: int,
    grace_seconds: int,
) -> RunConfig:
    """What attempt number `attempt` of `run` is told.

    `model_revision` is the commit that the hub resolved, if it told it; `grace_seconds` lie between SIGTERM and
    SIGKILL.
    """
    spec = run.spec
    return RunConfig(
        run=_identity(run),
        attempt=attempt,
        model_dir=preparation.model_dir,
        model_origin=_origin(run.spec.model, model_revision),
        tokens_dir=preparation.tokens_dir,
        output_dir=locations.output_dir,
        method=plan.method,
        batch=plan.batch,
        epochs=spec.training.epochs,
        max_steps=spec.training.max_steps,
        optimizer=_optimizer(spec.training),
        schedule=_schedule(spec.training),
        stability=_stability(spec.stability),
        evaluation=_evaluation(spec.evaluation),
        precision=Precision(spec.training.precision),
        parallelism=plan.parallelism,
        activation_checkpointing=plan.activation_checkpointing,
        checkpoint=CheckpointConfig(
            every_steps=spec.checkpoint.every_steps,
            keep=spec.checkpoint.keep,
            asynchronous=plan.asynchronous_checkpoints,
        ),
        merge_adapter=spec.output.merge_adapter,
        seed=spec.training.seed,
        progress_port=locations.progress_port,
        grace_seconds=grace_seconds,
        hang_timeout_seconds=spec.recovery.hang_timeout_seconds,
        tracking=_tracking(spec.tracking),
    )


def _origin(wanted: Model, revision: str | None) -> ModelOrigin | None:
    if wanted.id is None:
        return None
    hub = HubKind(wanted.source)
    return ModelOrigin(hub=hub, id=wanted.id, revision=revision or wanted.revision or DEFAULT_BRANCH[hub])


def _identity(run: Qwen3FineTune) -> RunIdentity:
    return RunIdentity(name=run.metadata.name, namespace=run.metadata.namespace, uid=run.metadata.uid)


def _source(wanted: Model | ResourceDataSource, locations: Locations) -> ModelSource:
    if wanted.path is not None:
        return VolumeSource(path=str(PurePosixPath(locations.inputs_dir) / wanted.path))
    assert wanted.id is not None, "the resource refuses a source that names nothing"
    hub = HubKind(wanted.source)
    return HubSource(hub=hub, id=wanted.id, revision=wanted.revision or DEFAULT_BRANCH[hub])


def _data_source(wanted: ResourceDataSource, locations: Locations) -> DataSource:
    weight = wanted.weight if isinstance(wanted, MixSource) else 1.0
    if wanted.url is None:
        return DataSource(source=_source(wanted, locations), file=wanted.file, weight=weight)
    access = wanted.s3 or S3Access()
    store = S3Source(url=wanted.url, endpoint=access.endpoint, region=access.region)
    return DataSource(source=store, weight=weight)


def _dataset(run: Qwen3FineTune, locations: Locations) -> DatasetConfig:
    spec = run.spec.dataset
    return DatasetConfig(
        sources=tuple(_data_source(source, locations) for source in spec.sources),
        format=DatasetFormat(spec.format),
        columns=dict(spec.columns),
        max_tokens=spec.max_tokens,
        overlong=OverlongPolicy(spec.overlong),
        packing=spec.packing,
        validation=ValidationConfig(
            fraction=spec.validation.fraction,
            source=_data_source(spec.validation, locations) if spec.validation.named else None,
        ),
        bad_rows=BadRows(policy=BadRowPolicy(spec.bad_rows.policy), limit=spec.bad_rows.limit),
        thinking=Thinking(spec.thinking),
        supervise=Supervise(spec.supervise),
        system_prompt=spec.system_prompt,
        seed=run.spec.training.seed,
    )


def _optimizer(training: Training) -> OptimizerConfig:
    return OptimizerConfig(
        peak_learning_rate=training.learning_rate,
        beta1=training.optimizer.beta1,
        beta2=training.optimizer.beta2,
        epsilon=training.optimizer.epsilon,
        weight_decay=training.optimizer.weight_decay,
        max_grad_norm=training.max_grad_norm or None,
    )


def _schedule(training: Training) -> Schedule:
    wanted = training.schedule
    warmup = {"warmup_ratio": wanted.warmup_share, "warmup_steps": wanted.warmup_steps}
    if wanted.type is ScheduleType.CONSTANT:
        return ConstantSchedule.model_validate(warmup)
    falling = warmup | {"final_ratio": wanted.final_ratio}
    if wanted.type is ScheduleType.WARMUP_STABLE_DECAY:
        shape = DecayShape(wanted.decay_shape or DecayShape.SQUARE_ROOT)
        decay = {"decay_ratio": wanted.decay_share, "decay_shape": shape}
        return WarmupStableDecaySchedule.model_validate(falling | decay)
    kind = CosineSchedule if wanted.type is ScheduleType.COSINE else LinearSchedule
    return kind.model_validate(falling)


def _evaluation(wanted: Evaluation) -> EvaluationConfig:
    return EvaluationConfig(
        every_steps=wanted.every_steps,
        patience=wanted.patience,
        min_delta=wanted.min_delta,
        keep_best=wanted.keep_best or wanted.load_best,
        load_best=wanted.load_best,
    )


def _stability(wanted: Stability) -> StabilityConfig:
    steps = wanted.non_finite
    return StabilityConfig(
        non_finite=NonFinitePolicy(
            skip_steps=steps.skip_steps, rollbacks=steps.rollbacks, rate_factor=steps.rate_factor
        ),
        divergence=_divergence(wanted.divergence),
    )


def _divergence(wanted: Divergence) -> DivergencePolicy | None:
    """What is left out has the contract's defaults."""
    if wanted.policy is DivergenceAction.IGNORE:
        return None
    remedies: dict[str, object] = {}
    if wanted.policy is DivergenceAction.WARN:
        remedies = {"remedies": None}
    elif wanted.policy is DivergenceAction.FAIL:
        remedies = {"remedies": ()}
    elif wanted.remedies is not None:
        remedies = {"remedies": tuple(DivergenceRemedy(each) for each in wanted.remedies)}
    numbers = wanted.model_dump(include={"window_steps", "factor", "rate_factor"}, exclude_none=True)
    return DivergencePolicy.model_validate(numbers | remedies)


def _tracking(wanted: Tracking) -> TrackingConfig:
    """Without a key nobody could log in, so the run is then tracked offline."""
    swanlab, wandb, mlflow = wanted.swanlab, wanted.wandb, wanted.mlflow
    return TrackingConfig(
        swanlab=swanlab
        and SwanLabConfig(
            project=swanlab.project,
            workspace=swanlab.workspace,
            host=swanlab.host,
            online=swanlab.api_key_secret is not None,
        ),
        tensorboard=None if wanted.tensorboard is None else TensorBoardConfig(),
        wandb=wandb
        and WandbConfig(
            project=wandb.project, entity=wandb.entity, host=wandb.host, online=wandb.api_key_secret is not None
        ),
        mlflow=mlflow and MlflowConfig(tracking_uri=mlflow.tracking_uri, experiment=mlflow.experiment),
    )
