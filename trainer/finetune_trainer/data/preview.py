"""Rows as the model will see them, for a person to check before GPU hours are spent."""

from typing import Any

import numpy as np

from finetune_trainer.data.cache import TokenCache

MAX_TOKENS = 400


def preview(cache: TokenCache, tokenizer: Any, *, rows: int = 3) -> list[str]:
    """Training documents from all over the cache as text, what is learnt between ⟦ and ⟧; long ones are cut."""
    split = cache.training
    texts = []
    for document in np.unique(np.linspace(0, split.num_documents - 1, rows + 2, dtype=np.int64)[1:-1]):
        begin, end = split.documents[document], split.documents[document + 1]
        shown = slice(begin, min(end, begin + MAX_TOKENS))
        ids, supervised = split.input_ids[shown], split.supervised[shown]
        changes = np.flatnonzero(np.diff(supervised)) + 1
        parts = [
            f"⟦{text}⟧" if learnt else text
            for text, learnt in (
                (tokenizer.decode(part.tolist(), skip_special_tokens=False), flags[0])
                for part, flags in zip(np.split(ids, changes), np.split(supervised, changes), strict=True)
            )
        ]
        texts.append("".join(parts) + (" …" if end > shown.stop else ""))
    return texts
