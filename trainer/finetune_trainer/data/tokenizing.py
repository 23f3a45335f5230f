"""What is asked of a tokenizer."""

from collections.abc import Sequence
from typing import Any


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text as it stands, nothing put before or behind it."""
    if not texts:
        return []
    made = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    ids: list[list[int]] = made["input_ids"]
    return ids


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """Tokens that structure a conversation and that no text of a row may hold."""
    return frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
