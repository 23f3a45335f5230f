"""AdamW, its learning rate as a pure function of the step, and the update that DDP and FSDP share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from finetune_contract import ConstantSchedule, LinearSchedule, OptimizerConfig, Precision, Schedule
from finetune_trainer.failures import NotANumberError
from finetune_trainer.model import trained_parameters


def learning_rate(step: int, *, total_steps: int, schedule: Schedule, peak: float) -> float:
    """Rate of update `step`, counted from 1.

    Rises over the first `warmup` updates, is `peak` at the next one, and falls so that it would reach its final value
    one update after the last: no update is spent on a rate of zero.
    """
    warmup = int(schedule.warmup_ratio * total_steps)
    if step <= warmup:
        return peak * step / (warmup + 1)
    if isinstance(schedule, ConstantSchedule):
        return peak
    done = (step - 1 - warmup) / (total_steps - warmup)
    shape = 1 - done if isinstance(schedule, LinearSchedule) else (1 + math.cos(math.pi * done)) / 2
    return peak * (schedule.final_ratio + (1 - schedule.final_ratio) * shape)


@dataclass(frozen=True, slots=True, order=True)
class Treatment:
    """What AdamW does with a parameter that it does not do with all."""

    decays: bool
    rate_factor: float = 1.0
    """Its own learning rate, in units of the run's."""


def treatments(model: nn.Module, rate_factors: Mapping[str, float]) -> dict[str, Treatment]:
    """How each trained parameter is treated; norms, biases and other one-dimensional ones do not decay.

    To be asked of the skeleton: a strategy may flatten what it cuts. `rate_factors` names those whose rate is not the
    run's; see methods.rate_factors.
    """
    trained = dict(trained_parameters(model))
    assert rate_factors.keys() <= trained.keys(), "only what is trained has a rate"
    return {
        name: Treatment(decays=parameter.ndim >= 2, rate_factor=rate_factors.get(name, 1.0))
        for name, parameter in trained.items()
    }


def adamw(model: nn.Module, treated: Mapping[str, Treatment], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trained parameters, one group per treatment; the rate is set at every update.

    Source: Loshchilov and Hutter 2017, arXiv 1711.05101.
    """
    trained = list(trained_parameters(model))
    groups = [
        {
            "params": [parameter for name, parameter in trained if treated[name] == treatment],
            "weight_decay": config.weight_decay if treatment.decays else 0.0,
            "rate_factor": treatment.rate_factor,
        }
        for treatment in sorted({treated[name] for name, _ in trained}, reverse=True)
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.peak_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def moments(optimizer: torch.optim.AdamW, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
    """AdamW's running means of a parameter's gradient and of its square; zeros before the first update."""
    state = optimizer.state.get(parameter)
    if not state:
        return torch.zeros_like(parameter.detach()), torch.zeros_like(parameter.detach())
    return state["exp_avg"], state["exp_avg_sq"]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` at the next update, times each group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


@dataclass(slots=True)
class LossScale:
    """Keeps fp16 gradients off zero: halved when they overflow, doubled after a long quiet time.

    Source: Micikevicius et al. 2017, arXiv 1710.03740; the numbers are those of torch.amp.GradScaler.
    """

    scale: float
    quiet_updates: int = 0
    skips_in_a_row: int = 0
    enabled: bool = True

    GROWTH_INTERVAL = 2000
    MAX_SKIPS_IN_A_ROW = 20
    """From 2**16 down to 2**-4: if that overflows, it is not the scale."""

    @classmethod
    def of(cls, precision: Precision) -> "LossScale":
        """Enabled for fp16; 1 for all others, for good."""
        return cls(scale=2.0**16) if precision is Precision.FP16 else cls(scale=1.0, enabled=False)

    def overflowed(self, step_is: str) -> None:
        """Note a skipped update.

        Raises: NotANumberError when scaling cannot be the reason.
        """
        self.skips_in_a_row += 1
        if not self.enabled or self.skips_in_a_row > self.MAX_SKIPS_IN_A_ROW:
            raise NotANumberError(f"{step_is}, at loss scale {self.scale:g}")
        self.scale /= 2
        self.quiet_updates = 0

    def updated(self) -> None:
        """Note a good update."""
        self.skips_in_a_row = 0
        self.quiet_updates += 1
        if self.enabled and self.quiet_updates % self.GROWTH_INTERVAL == 0:
            self.scale *= 2


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one step's gradients."""

    grad_norm: float
    """Before clipping."""
    applied: bool
    """False when fp16 gradients overflowed and the step was skipped."""


def apply_update(optimizer: torch.optim.Optimizer, scale: LossScale, *, rate: float, max_norm: float | None) -> Update:
    """Clip and apply the gradients, or skip an fp16 overflow; gradients are gone afterwards.

    Raises: NotANumberError, on every rank alike, before a weight has changed.
    """
    trained = [each for group in optimizer.param_groups for each in group["params"]]
    gradients = [each.grad for each in trained if each.grad is not None]
    norm = _whole(get_total_norm(gradients, foreach=None)).float() / scale.scale
    grad_norm = float(norm)
    if not math.isfinite(grad_norm):
        optimizer.zero_grad(set_to_none=True)
        scale.overflowed(f"gradient norm is {grad_norm}")
        return Update(grad_norm, applied=False)
    if scale.enabled:
        torch._foreach_mul_(gradients, 1 / scale.scale)
    if max_norm is not None:
        clip_grads_with_norm_(trained, max_norm, norm)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    scale.updated()
    return Update(grad_norm, applied=True)


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
