"""Rows as the model will see them, for a person to check before GPU hours are spent."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.cache import TokenCache

MAX_TOKENS = 400
"""Of one row; the middle of a longer one is left out."""


def preview(cache: TokenCache, tokenizer: Any, *, rows: int = 3) -> list[str]:
    """Training documents from all over the cache as text, what is learnt between ⟦ and ⟧."""
    split = cache.training
    texts = []
    for document in np.unique(np.linspace(0, split.num_documents - 1, rows + 2, dtype=np.int64)[1:-1]):
        span = slice(split.documents[document], split.documents[document + 1])
        texts.append(marked(split.input_ids[span], split.supervised[span], tokenizer))
    return texts


def preview_text(cache: TokenCache, tokenizer: Any, *, rows: int = 3) -> str:
    """The same as one text for a file."""
    head = "Rows of the training split as the model sees them. What is learnt stands between ⟦ and ⟧.\n"
    return head + "".join(f"\n{'─' * 40}\n{text}\n" for text in preview(cache, tokenizer, rows=rows))


def marked(input_ids: NDArray[np.int32], supervised: NDArray[np.uint8], tokenizer: Any) -> str:
    """One document; of a long one the beginning and the end, which is always learnt."""
    if len(input_ids) <= MAX_TOKENS:
        return "".join(_marked(input_ids, supervised, tokenizer))
    half = MAX_TOKENS // 2
    parts = [*_marked(input_ids[:half], supervised[:half], tokenizer)]
    parts.append(f" … {len(input_ids) - 2 * half:,} tokens … ")
    return "".join([*parts, *_marked(input_ids[-half:], supervised[-half:], tokenizer)])


def _marked(input_ids: NDArray[np.int32], supervised: NDArray[np.uint8], tokenizer: Any) -> Iterator[str]:
    changes = np.flatnonzero(np.diff(supervised)) + 1
    for ids, flags in zip(np.split(input_ids, changes), np.split(supervised, changes), strict=True):
        text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        yield f"⟦{text}⟧" if flags[0] else text
