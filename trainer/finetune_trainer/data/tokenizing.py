"""What is asked of a tokenizer."""

from collections.abc import Sequence
from typing import Any


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text as it stands, nothing put before or behind it and nothing cut off.

    Straight from the tokenizer's Rust half, without the offsets that nobody reads here: a fifth faster.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """Tokens that structure a conversation and that no text of a row may hold."""
    return frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
