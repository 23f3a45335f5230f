"""Plain text becomes token ids that are all learnt, closed by the tokenizer's end-of-text token.

Only the first token is not learnt: nothing comes before it that could predict it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import PreparationError, RowProblem
from finetune_trainer.data.formats import Passage, Sample
from finetune_trainer.data.tokenizing import encoded


class PassageRenderer:
    """Tokenizes passages for one model; no chat template is needed."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises: PreparationError if the tokenizer has no token that ends a text."""
        if tokenizer.eos_token_id is None:
            raise PreparationError(
                "NoEndToken",
                "model: its tokenizer has no eos_token, so a text could not be ended; add one to its config",
            )
        self._tokenizer = tokenizer

    def documents(self, batch: Sequence[Sample | RowProblem]) -> list[Document | RowProblem]:
        """The passages as documents, in order; problems stay."""
        samples = [sample for sample in batch if isinstance(sample, Sample)]
        ids = iter(encoded(self._tokenizer, [self._text(sample) for sample in samples]))
        return [self._document(each, next(ids)) if isinstance(each, Sample) else each for each in batch]

    def _text(self, sample: Sample) -> str:
        assert isinstance(sample.content, Passage), "the layout is plain text"
        return sample.content.text

    def _document(self, sample: Sample, ids: list[int]) -> Document:
        input_ids = np.array([*ids, self._tokenizer.eos_token_id], dtype=np.int32)
        supervised = np.ones(len(input_ids), dtype=np.uint8)
        supervised[0] = 0
        return Document(sample.row, sample.line, input_ids, supervised, think_blocks=0)
