"""A conversation becomes token ids and a mask of what is learnt, through the tokenizer's own chat template.

Learnt is what the assistant says, from after `<|im_start|>assistant\\n` through `<|im_end|>`; nothing else. An empty
think block, which Qwen3's template puts before the last answer, is part of the prompt when a hybrid model is served
without thinking, so it stays in the context and is not learnt. What follows the last learnt token is cut off.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_contract import Thinking
from finetune_trainer.data.errors import PreparationError, RowProblem
from finetune_trainer.data.formats import Conversation

HEADER = "<|im_start|>assistant\n"
END = "<|im_end|>"
EMPTY_THINKING = "<think>\n\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Document:
    """A rendered conversation; `supervised` is 1 where a token is learnt."""

    row: int
    line: int | None
    input_ids: NDArray[np.int32]
    supervised: NDArray[np.uint8]
    think_blocks: int
    """Assistant turns that brought reasoning, whether it is kept or not."""

    def first(self, tokens: int) -> "Document":
        """The document cut after so many tokens."""
        return replace(self, input_ids=self.input_ids[:tokens], supervised=self.supervised[:tokens])


class ChatRenderer:
    """Renders and tokenizes conversations for one model and one policy on think blocks."""

    def __init__(self, tokenizer: Any, *, thinking: Thinking, system_prompt: str | None) -> None:
        """Raises: PreparationError if the tokenizer has no chat template, or one that is not Qwen3's kind."""
        if not tokenizer.chat_template:
            raise PreparationError(
                "NoChatTemplate",
                "model: its tokenizer has no chat template, so rows cannot be rendered; use the chat model (Qwen3-8B "
                "rather than Qwen3-8B-Base), or add Qwen3's chat_template.jinja to the model folder",
            )
        self._tokenizer = tokenizer
        self._thinking = thinking
        self._system_prompt = system_prompt
        self._header = self._encode([HEADER])[0]
        self._end = tokenizer.convert_tokens_to_ids(END)
        if tokenizer.convert_ids_to_tokens(self._header[:1]) != ["<|im_start|>"]:
            raise _foreign_template()
        self._empty_thinking = self._encode([EMPTY_THINKING])[0]
        self._served_thinking = self._encode([self._serving_tail()])[0]

    @property
    def control_tokens(self) -> frozenset[str]:
        """Tokens that structure a conversation and that no text of a row may hold."""
        added = self._tokenizer.added_tokens_decoder.values()
        return frozenset(token.content for token in added if token.special)

    def documents(self, batch: Sequence[Conversation]) -> list[Document | RowProblem]:
        """The conversations as documents, in order; in place of one that cannot be proven right, its problem."""
        rendered = [self._rendered(conversation) for conversation in batch]
        encoded = iter(self._encode([text for text in rendered if isinstance(text, str)]))
        return [
            self._document(conversation, next(encoded)) if isinstance(text, str) else text
            for conversation, text in zip(batch, rendered, strict=True)
        ]

    def messages(self, conversation: Conversation) -> list[dict[str, str]]:
        """What the chat template is given for a conversation."""
        messages = []
        if self._system_prompt and conversation.turns[0].role != "system":
            messages.append({"role": "system", "content": self._system_prompt})
        for turn in conversation.turns:
            message = {"role": turn.role, "content": turn.content}
            if turn.reasoning and self._thinking is not Thinking.STRIP:
                message["reasoning_content"] = turn.reasoning
            messages.append(message)
        return messages

    def serving_prompt(self, messages: list[dict[str, str]]) -> str:
        """The text a server gives the model so that it answers with the last of `messages`."""
        thinks = "reasoning_content" in messages[-1] or self._thinking is Thinking.KEEP
        return self._template(messages[:-1], add_generation_prompt=True, enable_thinking=thinks)

    def text(self, input_ids: NDArray[np.int32]) -> str:
        """Token ids as text, control tokens included."""
        return str(self._tokenizer.decode(input_ids.tolist(), skip_special_tokens=False))

    def _rendered(self, conversation: Conversation) -> str | RowProblem:
        """The training text, or a problem if it is not what a server would make of the same conversation."""
        messages = self.messages(conversation)
        text = self._template(messages)
        answers = sum(message["role"] == "assistant" for message in messages)
        problem = None
        if text.count(HEADER) != answers:
            problem = f"the chat template rendered {text.count(HEADER)} assistant turns of {answers}"
        elif messages[-1].get("reasoning_content", "") not in text:
            problem = "has reasoning, but the model's chat template has no place for it; set dataset.thinking to Strip"
        elif not text.startswith(self.serving_prompt(messages)):
            problem = (
                "would be trained on a prompt that serving never makes: the model always thinks and the row has no "
                "reasoning; add reasoning_content, or use a model that can answer without thinking"
            )
        return RowProblem(conversation.row, conversation.line, problem) if problem else text

    def _document(self, conversation: Conversation, ids: list[int]) -> Document:
        supervised = np.zeros(len(ids), dtype=np.uint8)
        ends = 0
        for turn in (turn for turn in conversation.turns if turn.role == "assistant"):
            begin = _find(ids, self._header, ends) + len(self._header)
            ends = ids.index(self._end, begin) + 1
            thinks = bool(turn.reasoning) and self._thinking is not Thinking.STRIP
            supervised[begin + self._given(ids, begin, thinks=thinks) : ends] = 1
        input_ids = np.array(ids[:ends], dtype=np.int32)
        think_blocks = sum(bool(turn.reasoning) for turn in conversation.turns)
        return Document(conversation.row, conversation.line, input_ids, supervised[:ends], think_blocks)

    def _given(self, ids: list[int], begin: int, *, thinks: bool) -> int:
        """How many tokens of an answer the server's prompt already holds."""
        empty, served = self._empty_thinking, self._served_thinking
        if self._thinking is not Thinking.KEEP and not thinks and ids[begin : begin + len(empty)] == empty:
            return len(empty)
        return len(served) if served and ids[begin : begin + len(served)] == served else 0

    def _serving_tail(self) -> str:
        """What the template itself puts after the assistant's header when the model is asked to think."""
        probe = self._template([{"role": "user", "content": "?"}], add_generation_prompt=True, enable_thinking=True)
        if HEADER not in probe:
            raise _foreign_template()
        return probe.split(HEADER)[1]

    def _template(self, messages: list[dict[str, str]], **options: bool) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **options))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)[
            "input_ids"
        ]
        return ids


def _find(ids: list[int], part: list[int], start: int) -> int:
    """Where `part` begins in `ids` at or after `start`; it is there, since the text was counted before."""
    while True:
        start = ids.index(part[0], start)
        if ids[start : start + len(part)] == part:
            return start
        start += 1


def _foreign_template() -> PreparationError:
    return PreparationError(
        "UnknownChatTemplate",
        f"model: its chat template does not mark answers with {HEADER!r}, so what is to be learnt cannot be told from "
        "the rest; use a Qwen3 model's tokenizer and chat template",
    )
