"""AdamW, the loss scale of fp16, and the update that DDP and FSDP share."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from finetune_contract import OptimizerConfig, Precision
from finetune_trainer.model import trained_parameters


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


def moment_norm(optimizer: torch.optim.AdamW) -> Tensor:
    """Norm of the first moment over all parameters, after the first update; of all ranks' shards, if it is cut."""
    return _whole(get_total_norm([state["exp_avg"] for state in optimizer.state.values()])).float()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` at the next update, times each group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


@dataclass(frozen=True, slots=True)
class SavedScale:
    """A loss scale at rest."""

    scale: float
    quiet_updates: int


class LossScale:
    """Keeps fp16 gradients off zero: halved when they overflow, doubled after a long quiet time.

    It lives on the device and moves there, so nobody waits to hear whether a step overflowed.
    Source: Micikevicius et al. 2017, arXiv 1710.03740; the numbers are those of torch.amp.GradScaler.
    """

    FIRST = 2.0**16
    LOWEST = 2.0**-4
    """Gradients that overflow at this scale would do so at any: the scale is not the reason."""
    GROWTH_INTERVAL = 2000

    def __init__(self, saved: SavedScale, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        """False for all precisions but fp16: the scale is 1 for good."""
        self.scale = torch.tensor(saved.scale, dtype=torch.float32, device=device)
        self.quiet_updates = torch.tensor(saved.quiet_updates, dtype=torch.int64, device=device)

    @classmethod
    def of(cls, precision: Precision, device: torch.device) -> "LossScale":
        """As a run in this precision begins."""
        return cls(first_scale(precision), device, enabled=precision is Precision.FP16)

    def updated(self, applied: Tensor) -> None:
        """Note whether an update was applied, a bool on any device."""
        if not self.enabled:
            return
        applied = applied.to(self.scale.device)
        self.quiet_updates.copy_(torch.where(applied, self.quiet_updates + 1, 0))
        grows = applied & (self.quiet_updates % self.GROWTH_INTERVAL == 0)
        kept = torch.where(grows, self.scale * 2, self.scale)
        self.scale.copy_(torch.where(applied, kept, (self.scale / 2).clamp(min=self.LOWEST)))

    def take(self, saved: SavedScale) -> None:
        """Go on from a saved state."""
        self.scale.fill_(saved.scale)
        self.quiet_updates.fill_(saved.quiet_updates)

    def at_rest(self) -> SavedScale:
        """What a checkpoint keeps of it; waits for the device."""
        return SavedScale(float(self.scale), int(self.quiet_updates))


def first_scale(precision: Precision) -> SavedScale:
    """The loss scale that a run in this precision begins with."""
    return SavedScale(LossScale.FIRST if precision is Precision.FP16 else 1.0, 0)


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one step's gradients, as scalars on some device; the same on every rank."""

    grad_norm: Tensor
    """Of all ranks, before clipping and without the loss scale."""
    applied: Tensor
    """False when the norm is not finite: then no weight and no moment has changed."""
    loss_scale: Tensor
    """That the gradients were made with."""


def apply_update(optimizer: torch.optim.AdamW, scale: LossScale, *, rate: float, max_norm: float | None) -> Update:
    """Clip and apply the gradients, or change nothing when their norm is not finite; they are gone afterwards.

    The device decides, by the `found_inf` that torch.amp.GradScaler hands to fused optimizers: nobody waits for it.
    """
    trained = [each for group in optimizer.param_groups for each in group["params"]]
    gradients = [each.grad for each in trained if each.grad is not None]
    used = scale.scale.clone()
    norm = _whole(get_total_norm(gradients, foreach=None)).float()
    divisor = used.to(norm.device)
    norm = norm / divisor
    applied = norm.isfinite()
    if scale.enabled:
        torch._foreach_mul_(gradients, 1 / divisor)
    if max_norm is not None:
        clip_grads_with_norm_(trained, max_norm, norm)
    set_learning_rate(optimizer, rate)
    optimizer.found_inf = (~applied).float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    scale.updated(applied)
    return Update(grad_norm=norm, applied=applied, loss_scale=used)


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
