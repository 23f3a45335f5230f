"""Every rank holds the whole model; gradients are averaged by torch's DistributedDataParallel."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from finetune_contract import RunConfig
from finetune_trainer.distributed import World
from finetune_trainer.model import (
    ALL_ROWS,
    COMPUTE_DTYPE,
    Source,
    materialise,
    move_buffers,
    set_dtypes,
    trained_parameters,
)
from finetune_trainer.optim import LossScale, Treatment, Update, adamw, apply_update, moment_norm, moments
from finetune_trainer.strategies import SavedState, Trained


def prepare(
    model: PreTrainedModel, initial: Source, config: RunConfig, world: World, treated: Mapping[str, Treatment]
) -> "DdpEngine":
    """Trained weights in fp32, frozen ones in the compute dtype; products run under autocast."""
    dtype = COMPUTE_DTYPE[config.precision]
    set_dtypes(model, trained=torch.float32, frozen=dtype)
    materialise(model, initial, world.device)
    move_buffers(model, world.device)
    module: nn.Module = model
    if world.size > 1:
        with warnings.catch_warnings():
            # torch 2.14 renames the option, torch 2.11 knows no other name
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            module = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    return DdpEngine(
        model=model,
        module=module,
        optimizer=adamw(model, treated, config.optimizer),
        loss_scale=LossScale.of(config.precision, world.device),
        dtype=dtype,
        world=world,
    )


@dataclass(slots=True, kw_only=True)
class DdpEngine:
    """See strategies.Engine."""

    model: PreTrainedModel
    module: nn.Module
    optimizer: torch.optim.AdamW
    loss_scale: LossScale
    dtype: torch.dtype
    world: World

    def begin(self, *, last: bool) -> None:
        """Gradients stay local until the step's last micro-batch."""
        if isinstance(self.module, DistributedDataParallel):
            # what its no_sync() does; a context cannot reach from before the forward to after the backward pass
            self.module.require_backward_grad_sync = last

    def precision(self) -> AbstractContextManager[object]:
        """Autocast, unless the run is in fp32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.world.device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Undoes DDP's average over the ranks: `loss` is already this rank's share of the mean."""
        torch.autograd.backward(loss * (self.world.size * self.loss_scale.scale))

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """They are whole on every rank."""
        for name, parameter in trained_parameters(self.model):
            assert parameter.grad is not None, f"{name} took part in no product"
            yield name, parameter.grad

    def step(self, rate: float, max_norm: float | None) -> Update:
        """Every rank does the same update."""
        return apply_update(self.optimizer, self.loss_scale, rate=rate, max_norm=max_norm)

    def moment_norm(self) -> Tensor:
        """Every rank has all of it."""
        return moment_norm(self.optimizer)

    def trained(self) -> Iterator[Trained]:
        """They are whole on every rank."""
        for name, parameter in trained_parameters(self.model):
            exp_avg, exp_avg_sq = moments(self.optimizer, parameter)
            yield Trained(name=name, weight=parameter.detach(), exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)

    def restore(self, saved: SavedState) -> None:
        """Every rank reads everything."""
        self.loss_scale.take(saved.loss_scale)
        for name, parameter in trained_parameters(self.model):
            parameter.data.copy_(saved.weight(name, ALL_ROWS))
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(saved.updates), device=parameter.device),
                "exp_avg": saved.exp_avg(name, ALL_ROWS).to(parameter.device),
                "exp_avg_sq": saved.exp_avg_sq(name, ALL_ROWS).to(parameter.device),
            }
