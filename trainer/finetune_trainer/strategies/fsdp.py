"""Parameters, gradients and optimizer state are cut by rows over the ranks: torch's fully_shard (FSDP2), per layer."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from finetune_contract import FsdpParallelism, RunConfig
from finetune_trainer.distributed import World
from finetune_trainer.model import (
    COMPUTE_DTYPE,
    Source,
    check_shape,
    decoder_layers,
    set_dtypes,
    trained_parameters,
)
from finetune_trainer.optim import LossScale, Treatment, Update, adamw, apply_update, moment_norm, moments
from finetune_trainer.strategies import SavedState, Trained


def prepare(
    model: PreTrainedModel, initial: Source, config: RunConfig, world: World, treated: Mapping[str, Treatment]
) -> "FsdpEngine":
    """Cut the skeleton first and read then: no rank ever holds more than its own rows and the layer at work."""
    assert isinstance(config.parallelism, FsdpParallelism)
    dtype = COMPUTE_DTYPE[config.precision]
    set_dtypes(model, trained=torch.float32, frozen=dtype)
    offload = config.parallelism.cpu_offload and world.device.type != "cpu"
    _shard(model, config.parallelism.reshard_after_forward, dtype, world, offload=offload)
    _materialise(model, initial, torch.device("cpu") if offload else world.device, world)
    return FsdpEngine(
        model=model,
        module=model,
        optimizer=adamw(model, treated, config.optimizer),
        loss_scale=LossScale.of(config.precision, world.device),
        world=world,
        reshard_after_forward=config.parallelism.reshard_after_forward,
    )


def _shard(model: nn.Module, reshard_after_forward: bool, dtype: torch.dtype, world: World, *, offload: bool) -> None:
    mesh = init_device_mesh(world.device.type, (world.size,))
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    policy = CPUOffloadPolicy() if offload else OffloadPolicy()
    for layer in decoder_layers(model):
        fully_shard(
            layer, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=precision,
            offload_policy=policy,
        )  # fmt: skip
    # embedding, last norm and head are one group, which keeps tied weights together
    fully_shard(model, mesh=mesh, mp_policy=precision, offload_policy=policy)


@torch.no_grad()
def _materialise(model: nn.Module, initial: Source, device: torch.device, world: World) -> None:
    """Allocate the shards and fill them with their rows; `to_empty` would lose the buffers, hence the copies."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device=device)
    for name in buffers:
        owner, _, key = name.rpartition(".")
        model.get_submodule(owner)._buffers[key] = buffers[name].to(world.device)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        rows = initial(name, _own_rows(parameter, world))
        check_shape(name, rows, tuple(parameter.to_local().shape))
        parameter.to_local().copy_(rows)


def _own_rows(parameter: DTensor, world: World) -> slice:
    """The rows that fully_shard gives this rank: equal chunks, the last ones shorter or empty."""
    rows = parameter.shape[0]
    chunk = -(-rows // world.size)
    return slice(min(world.rank * chunk, rows), min((world.rank + 1) * chunk, rows))


@dataclass(slots=True, kw_only=True)
class FsdpEngine:
    """See strategies.Engine."""

    model: PreTrainedModel
    module: nn.Module
    optimizer: torch.optim.AdamW
    loss_scale: LossScale
    world: World
    reshard_after_forward: bool

    def begin(self, *, last: bool) -> None:
        """Gradients are reduced with every micro-batch, so that only shards of them accumulate."""
        assert isinstance(self.module, FSDPModule)
        self.module.set_reshard_after_backward(last or self.reshard_after_forward)

    def precision(self) -> AbstractContextManager[object]:
        """Nothing: fully_shard gathers the weights in the compute dtype."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Undoes FSDP's average over the ranks: `loss` is already this rank's share of the mean."""
        torch.autograd.backward(loss * (self.world.size * self.loss_scale.scale))

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Gathered one at a time."""
        self._reshard()
        for name, parameter in trained_parameters(self.model):
            assert parameter.grad is not None, f"{name} took part in no product"
            yield name, _whole(parameter.grad)

    def _reshard(self) -> None:
        """A forward pass alone, or one that was stopped in accumulation, leaves gathered weights in place."""
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def step(self, rate: float, max_norm: float | None) -> Update:
        """Every rank updates its own rows; the gradient norm is that of all of them."""
        return apply_update(self.optimizer, self.loss_scale, rate=rate, max_norm=max_norm)

    def moment_norm(self) -> Tensor:
        """Every rank adds its own rows."""
        return moment_norm(self.optimizer)

    def trained(self) -> Iterator[Trained]:
        """Gathered one at a time."""
        self._reshard()
        for name, parameter in trained_parameters(self.model):
            exp_avg, exp_avg_sq = (_whole(each) for each in moments(self.optimizer, parameter))
            weight = _whole(parameter.detach())
            yield Trained(name=name, weight=weight, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)

    @torch.no_grad()
    def restore(self, saved: SavedState) -> None:
        """Every rank reads its own rows."""
        self.loss_scale.take(saved.loss_scale)
        for name, parameter in trained_parameters(self.model):
            assert isinstance(parameter, DTensor)
            rows = _own_rows(parameter, self.world)
            parameter.to_local().copy_(saved.weight(name, rows))
            state = {"exp_avg": saved.exp_avg(name, rows), "exp_avg_sq": saved.exp_avg_sq(name, rows)}
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(saved.updates), device=parameter.to_local().device),
                **{key: _like(parameter, value) for key, value in state.items()},
            }


def _whole(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.full_tensor()


def _like(parameter: DTensor, rows: Tensor) -> Tensor:
    made = torch.zeros_like(parameter.detach())
    assert isinstance(made, DTensor)
    made.to_local().copy_(rows)
    return made
