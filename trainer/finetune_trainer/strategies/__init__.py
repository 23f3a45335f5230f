"""How ranks share the work. Every strategy is a file with one function, `prepare`, that makes an Engine."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_contract import DdpParallelism, FsdpParallelism, RunConfig
from finetune_trainer.distributed import World
from finetune_trainer.model import Source
from finetune_trainer.optim import LossScale, SavedScale, Treatment, Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained parameter and its optimizer state, whole, fp32, wherever they are; they may be the live ones."""

    name: str
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class SavedState(Protocol):
    """What a checkpoint gives back; `rows` as in model.Source."""

    @property
    def updates(self) -> int:
        """How often the optimizer has moved."""

    @property
    def loss_scale(self) -> SavedScale:
        """As it was when it was saved."""

    def weight(self, name: str, rows: slice) -> Tensor:
        """Master weight."""

    def exp_avg(self, name: str, rows: slice) -> Tensor:
        """First moment."""

    def exp_avg_sq(self, name: str, rows: slice) -> Tensor:
        """Second moment."""


class Engine(Protocol):
    """A model that can be trained; every method is called by all ranks at the same time."""

    model: PreTrainedModel
    """What the method made, under its own names."""
    module: nn.Module
    """What is called in a forward pass."""
    loss_scale: LossScale

    def begin(self, *, last: bool) -> None:
        """Get ready for the forward and backward pass of a micro-batch; `last` ones let the ranks add up."""

    def precision(self) -> AbstractContextManager[object]:
        """Context of a forward pass."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, this rank's share of the step's mean."""

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Whole gradients of the trained parameters, between the last backward and the step."""

    def step(self, rate: float, max_norm: float | None) -> Update:
        """Clip the gradients to `max_norm` and apply them; change nothing when their norm is not finite."""

    def moment_norm(self) -> Tensor:
        """Norm of AdamW's first moment over all trained parameters, on the device; the same on every rank."""

    def trained(self) -> Iterator[Trained]:
        """The trained parameters with their optimizer state, one at a time."""

    def restore(self, saved: SavedState) -> None:
        """Take weights and optimizer state from a checkpoint."""


class StrategyModule(Protocol):
    """What a strategy's file offers."""

    def prepare(
        self,
        model: PreTrainedModel,
        initial: Source,
        config: RunConfig,
        world: World,
        treated: Mapping[str, Treatment],
    ) -> Engine:
        """Give the skeleton its values, cut as this strategy does, and an optimizer that treats them as said."""


def chosen(config: RunConfig) -> StrategyModule:
    """The file that implements the run's parallelism; no other one is imported."""
    if isinstance(config.parallelism, DdpParallelism):
        from finetune_trainer.strategies import ddp

        return ddp
    if isinstance(config.parallelism, FsdpParallelism):
        from finetune_trainer.strategies import fsdp

        return fsdp
    from finetune_trainer.strategies import deepspeed

    return deepspeed
