"""Which tokens of a rendered conversation are learnt: what the assistant says, from behind its header to its end token.

Control tokens never stand in a row's texts, so every one in the ids is the template's, and answers are found by them.
What a server puts behind the header itself (an opened think block, or an empty one) is given, and not learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.formats import RowError
from finetune_trainer.data.template import END, HEADER, ChatTemplate
from finetune_trainer.data.tokenizing import encoded
from finetune_trainer.data.training_text import EMPTY_THINKING


@dataclass(frozen=True, slots=True)
class Answer:
    """One assistant turn of a conversation."""

    is_learnt: bool
    thinks: bool
    """Its think block, if there is one, is its own and not given."""


class Masks:
    """Finds the answers in token ids."""

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        """Raises: PreparationError if the tokenizer does not know the template's control tokens."""
        header, empty, thinking, plain = encoded(
            tokenizer, [HEADER, EMPTY_THINKING, template.thinking_tail, template.plain_tail]
        )
        self._header, self._empty, self._thinking_tail, self._plain_tail = header, empty, thinking, plain
        self._start, self._end = tokenizer.convert_tokens_to_ids([HEADER.partition("assistant")[0], END])
        if header[0] != self._start or self._end in (None, tokenizer.unk_token_id):
            raise PreparationError(
                "UnknownChatTemplate",
                f"model: {HEADER!r} and {END!r} of its chat template are no control tokens of its tokenizer; use a "
                "Qwen3 model's tokenizer and chat template together",
            )

    def supervised(self, ids: list[int], answers: Sequence[Answer]) -> NDArray[np.uint8]:
        """1 where a token is learnt; `answers` are the conversation's assistant turns, in order.

        Raises: RowError if the ids do not hold just these answers, or the last not behind what a server sends.
        """
        begins = self._begins(ids)
        if len(begins) != len(answers):
            raise RowError(f"the chat template rendered {len(begins)} assistant turns of {len(answers)}")
        flags = np.zeros(len(ids), dtype=np.uint8)
        for number, (begin, answer) in enumerate(zip(begins, answers, strict=True), start=1):
            begin += self._given(ids, begin, answer, is_last=number == len(answers))
            if answer.is_learnt:
                flags[begin : self._behind_end(ids, begin)] = 1
        return flags

    def _begins(self, ids: list[int]) -> list[int]:
        """Where answers begin, right behind their headers."""
        begins: list[int] = []
        size, at = len(self._header), -1
        while True:
            try:
                at = ids.index(self._start, at + 1)
            except ValueError:
                return begins
            if ids[at : at + size] == self._header:
                begins.append(at + size)

    def _behind_end(self, ids: list[int], begin: int) -> int:
        try:
            return ids.index(self._end, begin) + 1
        except ValueError:
            raise RowError(f"the chat template ends an answer without {END}") from None

    def _given(self, ids: list[int], begin: int, answer: Answer, *, is_last: bool) -> int:
        """How many tokens of an answer the server's prompt holds already.

        A server made each earlier answer with such a prompt too, but most templates show those without it.
        """
        tail = self._thinking_tail if answer.thinks else self._plain_tail
        if ids[begin : begin + len(tail)] == tail:
            return len(tail)
        if is_last:
            raise RowError("would be trained on a prompt that serving never makes: it ends in the middle of a token")
        is_empty_block = ids[begin : begin + len(self._empty)] == self._empty
        return len(self._empty) if is_empty_block and not answer.thinks else 0
