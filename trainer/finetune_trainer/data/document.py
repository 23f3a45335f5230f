"""A row as token ids, with a mark on every token that is learnt."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Document:
    """A rendered row; `supervised` is 1 where a token is learnt, and never on the first: nothing could predict it."""

    row: int
    line: int | None
    input_ids: NDArray[np.int32]
    supervised: NDArray[np.uint8]
    think_blocks: int
    """Assistant turns that brought reasoning, whether it is kept or not."""

    def first(self, tokens: int) -> "Document":
        """The document cut after so many tokens."""
        return replace(self, input_ids=self.input_ids[:tokens], supervised=self.supervised[:tokens])
