"""DeepSpeed ZeRO: stage 1 cuts the optimizer's state over the ranks, 2 the gradients too, 3 the parameters as well.

The engine cuts, reduces and clips. Everything that decides the numbers is ours and the same as elsewhere: the division
of the loss, the schedule, AdamW, the loss scale, the layout of checkpoints.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from transformers import PreTrainedModel

from finetune_contract import DeepSpeedParallelism, OffloadDevice, Precision, RunConfig
from finetune_trainer import experts
from finetune_trainer.distributed import World, summed_on_device
from finetune_trainer.failures import UserError
from finetune_trainer.model import (
    ALL_ROWS,
    COMPUTE_DTYPE,
    Source,
    decoder_layers,
    materialise,
    move_buffers,
    set_dtypes,
    trained_parameters,
)
from finetune_trainer.optim import LossScale, Treatment, Update, adamw, set_learning_rate
from finetune_trainer.strategies import SavedState, Trained

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported

import deepspeed
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

# It serves inference alone, and on a CPU it would be compiled, for minutes, at the first use.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

_MOMENTS = ("exp_avg", "exp_avg_sq")


def prepare(
    model: PreTrainedModel, initial: Source, config: RunConfig, world: World, treated: Mapping[str, Treatment]
) -> "DeepSpeedEngine":
    """All weights in the compute dtype; the engine keeps fp32 masters of those that are trained."""
    assert isinstance(config.parallelism, DeepSpeedParallelism)
    if config.precision is Precision.FP16 and world.device.type == "cpu":
        raise UserError(
            "PrecisionNotSupported", "training.precision: DeepSpeed knows no Fp16 on a CPU; use Bf16 or Fp32"
        )
    deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False, dist_init_required=False)
    generated = engine_config(config)
    dtype = COMPUTE_DTYPE[config.precision]
    set_dtypes(model, trained=dtype, frozen=dtype)
    if config.parallelism.stage == 3:
        _let_inputs_of_experts_learn(model)
        _materialise_in_parts(model, initial, config.parallelism, generated, world)
    else:
        materialise(model, initial, world.device)
    move_buffers(model, world.device)
    optimizer = adamw(model, treated, config.optimizer)
    module, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=generated, dist_init_required=False)
    engine = DeepSpeedEngine(
        model=model,
        module=module,
        loss_scale=LossScale.of(config.precision, torch.device("cpu")),  # the engine wants to be told
        world=world,
        stage=config.parallelism.stage,
    )
    engine.set_masters(initial)
    return engine


def engine_config(config: RunConfig) -> dict[str, Any]:
    """DeepSpeed's configuration; its train_batch_size is micro x accumulation x world, exactly.

    There is no scheduler in it, since the rate is set at every step, and one precision at most.
    """
    assert isinstance(config.parallelism, DeepSpeedParallelism)
    batch = config.batch
    return {
        "train_batch_size": batch.global_sequences,
        "train_micro_batch_size_per_gpu": batch.micro_sequences,
        "gradient_accumulation_steps": batch.accumulation_steps,
        # a gradient that is not finite skips the update with bf16 as well, and is reported
        "bf16": {"enabled": config.precision is Precision.BF16, "check_grad_overflow": True},
        "fp16": {"enabled": config.precision is Precision.FP16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW is vectorised, and needs no compiler
        "zero_optimization": _zero_config(config.parallelism),
        "steps_per_print": 1_000_000_000,
    }


def _zero_config(parallelism: DeepSpeedParallelism) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": parallelism.stage,
        "reduce_bucket_size": parallelism.reduce_bucket_elements,
        "allgather_bucket_size": parallelism.allgather_bucket_elements,
        "overlap_comm": parallelism.overlap_communication,
        "contiguous_gradients": True,
    }
    pin_memory = torch.cuda.is_available()
    if parallelism.offload_optimizer is OffloadDevice.CPU:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pin_memory}
    if parallelism.offload_parameters is OffloadDevice.CPU:
        zero["offload_param"] = {"device": "cpu", "pin_memory": pin_memory}
    return zero


def _let_inputs_of_experts_learn(model: PreTrainedModel) -> None:
    """Stage 3 gathers a mixture's block as one, and takes up all gradients in it when that of its input is there; or,
    where the input needs none, as in a first layer whose attention is frozen, before they are."""
    if experts.modules(model):
        model.enable_input_require_grads()  # type: ignore[no-untyped-call]


def _materialise_in_parts(
    model: nn.Module, initial: Source, parallelism: DeepSpeedParallelism, generated: dict[str, Any], world: World
) -> None:
    """Layer after layer: read whole, cut, freed; so no rank ever holds more than one layer whole."""
    names = {id(module): f"{name}." for name, module in model.named_modules()}
    remote = "cpu" if parallelism.offload_parameters is OffloadDevice.CPU else None
    for layer in decoder_layers(model):
        materialise(layer, initial, world.device, prefix=names[id(layer)])
        deepspeed.zero.Init(module=layer, config_dict_or_path=generated, remote_device=remote)
    materialise(model, initial, world.device)  # what is left: embedding, last norm, head
    deepspeed.zero.Init(module=model, config_dict_or_path=generated, remote_device=remote)


@dataclass(slots=True, kw_only=True)
class DeepSpeedEngine:
    """See strategies.Engine."""

    model: PreTrainedModel
    module: Any
    """DeepSpeed's engine."""
    loss_scale: LossScale
    world: World
    stage: int
    _is_last: bool = False

    def begin(self, *, last: bool) -> None:
        """Where a step ends is said here, not counted by the engine."""
        self._is_last = last
        self.module.set_gradient_accumulation_boundary(last)
        if self.loss_scale.enabled:
            self.module.optimizer.override_loss_scale(float(self.loss_scale.scale))

    def precision(self) -> AbstractContextManager[object]:
        """Nothing: the weights are in the compute dtype."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Undoes the engine's average over the ranks, and keeps it from dividing by the accumulation."""
        self.module.backward(loss * self.world.size, scale_wrt_gas=False)
        if not self._is_last:
            self.module.step()  # advances the engine's count of micro-batches, no more

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Gathered one at a time."""
        for name, parameter in trained_parameters(self.model):
            gradient = safe_get_full_grad(parameter)
            assert gradient is not None, f"{name} took part in no product"
            yield name, gradient

    def step(self, rate: float, max_norm: float | None) -> Update:
        """The engine clips and updates; it leaves everything as it is when the gradient norm is not finite.

        It asks the device for that norm and waits for the answer: nothing here can spare it.
        """
        zero, used = self.module.optimizer, self.loss_scale.scale.clone()
        set_learning_rate(zero, rate)
        zero.clip_grad = max_norm or 0.0
        self.module.step()
        applied = torch.tensor(not zero.overflow)
        self.loss_scale.updated(applied)
        # the engine says infinity for NaN as well
        return Update(torch.tensor(float(self.module.get_global_grad_norm())), applied, used)

    def moment_norm(self) -> Tensor:
        """Every rank adds its own part."""
        own = get_total_norm([state["exp_avg"] for state in self._states()]).to(self.world.device)
        return summed_on_device(self.world, own.square()).sqrt()

    def trained(self) -> Iterator[Trained]:
        """Gathered one at a time."""
        for name, parameter in trained_parameters(self.model):
            exp_avg, exp_avg_sq = (safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS)
            weight = safe_get_full_fp32_param(parameter)
            yield Trained(name=name, weight=weight, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)

    def restore(self, saved: SavedState) -> None:
        """Every rank reads everything and keeps its part."""
        self.loss_scale.take(saved.loss_scale)
        for state in self._states():
            state["step"].fill_(float(saved.updates))
        self.set_masters(saved.weight)
        for name, parameter in trained_parameters(self.model):
            self._set_moment(parameter, "exp_avg", saved.exp_avg(name, ALL_ROWS))
            self._set_moment(parameter, "exp_avg_sq", saved.exp_avg_sq(name, ALL_ROWS))

    def set_masters(self, source: Source) -> None:
        """Give the fp32 masters, and the weights made of them, their values; makes room for the moments."""
        self._allocate_moments()
        for name, parameter in trained_parameters(self.model):
            self._set_master(parameter, source(name, ALL_ROWS).to(self.world.device, torch.float32))

    def _set_master(self, parameter: Any, value: Tensor) -> None:
        if self.stage == 3:
            part = self._own_part(parameter, value)
            safe_set_local_fp32_param(parameter, part)
            parameter.ds_tensor.data.copy_(part)
        else:
            safe_set_full_fp32_param(parameter, value)
            parameter.data.copy_(value)

    def _set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        value = value.to(self.world.device)
        if self.stage == 3:
            safe_set_local_optimizer_state(parameter, self._own_part(parameter, value), key)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def _own_part(self, parameter: Any, value: Tensor) -> Tensor:
        """This rank's part of a flattened parameter; the last ranks' parts are padded with zeros."""
        size = parameter.ds_tensor.numel()
        part = value.flatten()[self.world.rank * size : (self.world.rank + 1) * size]
        return nn.functional.pad(part, (0, size - part.numel()))

    def _allocate_moments(self) -> None:
        """What AdamW does at its first step, done now so that a checkpoint can be taken up before it."""
        states = self.module.optimizer.optimizer.state
        for flat in self._flat_masters():
            if not states[flat]:
                states[flat]["step"] = torch.zeros((), device=flat.device)
                states[flat] |= {key: torch.zeros_like(flat, requires_grad=False) for key in _MOMENTS}
        if self.stage < 3:
            self.module.optimizer._lazy_init_hp_params_optimizer_state()

    def _states(self) -> list[dict[str, Tensor]]:
        return [self.module.optimizer.optimizer.state[flat] for flat in self._flat_masters()]

    def _flat_masters(self) -> list[Tensor]:
        zero = self.module.optimizer
        if self.stage == 3:
            return list(zero.fp32_partitioned_groups_flat)
        return [flat for group in zero.optimizer.param_groups for flat in group["params"]]
