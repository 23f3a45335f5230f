"""What the loader hands to the recipe.

Shape letters: T tokens of a micro-batch, all its documents side by side; S supervised tokens of a micro-batch.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One rank's input of one forward pass, padding-free: documents lie side by side in a single row.

    A micro-batch may be empty of supervised tokens (S = 0): a rank whose share of a last, smaller step has run out
    still takes part in every collective, with one unsupervised token.
    """

    input_ids_1T: Tensor
    position_ids_1T: Tensor
    """Restart at 0 with every document."""
    document_offsets: tuple[int, ...]
    """Where documents begin, and T at the end; computed on the CPU so that no kernel waits for the device."""
    longest_document: int
    supervised_S: Tensor
    """Positions in T whose *next* token is supervised: the logits to compute."""
    targets_S: Tensor
    """The supervised next tokens."""

    def to(self, device: str) -> "MicroBatch":
        """The same micro-batch with its tensors on `device`."""
        return MicroBatch(
            input_ids_1T=self.input_ids_1T.to(device, non_blocking=True),
            position_ids_1T=self.position_ids_1T.to(device, non_blocking=True),
            document_offsets=self.document_offsets,
            longest_document=self.longest_document,
            supervised_S=self.supervised_S.to(device, non_blocking=True),
            targets_S=self.targets_S.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rank's part of one optimizer step, and what is known of the whole step without asking the other ranks."""

    number: int
    """1 for the first step of a run."""
    epoch: float
    """Passes over the training sequences when this step is done."""
    micro_batches: tuple[MicroBatch, ...]
    """Equally many on every rank: `accumulation_steps`, and fewer while the batch grows."""
    global_supervised_tokens: int
    """Over all ranks and micro-batches: what the loss is divided by."""
    global_tokens: int
