"""What export starts from."""

from dataclasses import dataclass, field

from torch import Tensor

from finetune_contract import DatasetReport, HubKind, RunConfig
from finetune_trainer.checkpoint import Checkpoint, Disk
from finetune_trainer.model import ALL_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run whose last step is saved."""

    config: RunConfig
    last: Checkpoint
    ids: tuple[int, ...]
    """The test prompt."""
    logits_PV: Tensor
    """Of the model in training, for the test prompt: P tokens, V vocabulary."""
    dataset: DatasetReport
    disk: Disk = field(default_factory=Disk)

    def trained(self, name: str) -> Tensor:
        """A trained parameter, whole, fp32."""
        return self.last.weight(name, ALL_ROWS)

    @property
    def base_name(self) -> str:
        """What the base is called where an artifact is used: its id on a hub, or else its folder."""
        origin = self.config.model_origin
        return self.config.model_dir if origin is None else origin.id

    @property
    def base_revision(self) -> str | None:
        """The commit of `base_name`; None where PEFT, which knows Hugging Face alone, could not ask for it."""
        origin = self.config.model_origin
        return origin.revision if origin is not None and origin.hub is HubKind.HUGGING_FACE else None
