"""A conversation becomes token ids and a mask of what is learnt, through the tokenizer's own chat template.

Learnt is what the assistant says, from after `<|im_start|>assistant\\n` through `<|im_end|>`; nothing else. An empty
think block, which Qwen3's template puts before the last answer, is part of the prompt when a hybrid model is served
without thinking, so it stays in the context and is not learnt. What follows the last learnt token is cut off.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError

from finetune_contract import DatasetConfig, Supervise, Thinking
from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import PreparationError, RowProblem
from finetune_trainer.data.formats import Conversation, RowError, Sample, Turn
from finetune_trainer.data.masks import Answer, Masks
from finetune_trainer.data.template import END, ChatTemplate, Message
from finetune_trainer.data.tokenizing import encoded
from finetune_trainer.data.training_text import TrainingTexts

LOG = logging.getLogger(__name__)


class ChatRenderer:
    """Renders and tokenizes conversations for one model, by one dataset's policies."""

    def __init__(self, tokenizer: Any, config: DatasetConfig) -> None:
        """Raises: PreparationError if the tokenizer's chat template cannot serve, or not with these policies."""
        self._tokenizer = tokenizer
        self._thinking = config.thinking
        self._supervise = config.supervise
        self._system_prompt = config.system_prompt
        self._template = ChatTemplate(tokenizer)
        if self._template.always_thinks and self._thinking is Thinking.STRIP:
            raise PreparationError(
                "AlwaysThinks",
                "dataset.thinking: Strip would leave answers without reasoning, and the model always thinks; set it to "
                "Auto, or use a model that can answer without thinking",
            )
        if tokenizer.eos_token != END:
            LOG.warning(
                "model: its texts end with %s, and answers are learnt to end with %s; serve it with both as stop "
                "tokens",
                tokenizer.eos_token,
                END,
            )
        self._texts = TrainingTexts(self._template)
        self._masks = Masks(tokenizer, self._template)

    def documents(self, batch: Sequence[Sample | RowProblem]) -> list[Document | RowProblem]:
        """The conversations as documents, in order; problems stay, and what cannot be proven right becomes one."""
        texts = [self._text(sample) if isinstance(sample, Sample) else sample for sample in batch]
        ids = iter(encoded(self._tokenizer, [text for text in texts if isinstance(text, str)]))
        return [
            self._document(sample, next(ids)) if isinstance(sample, Sample) and isinstance(text, str) else text  # type: ignore[misc]
            for sample, text in zip(batch, texts, strict=True)
        ]

    def messages(self, conversation: Conversation) -> list[Message]:
        """What the chat template is given for a conversation."""
        messages: list[Message] = []
        if self._system_prompt and conversation.turns[0].role != "system":
            messages.append({"role": "system", "content": self._system_prompt})
        messages += [self._message(turn) for turn in conversation.turns]
        return messages

    def _message(self, turn: Turn) -> Message:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if self._shows_reasoning(turn):
            message["reasoning_content"] = turn.reasoning
        if turn.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in turn.tool_calls
            ]
        if turn.name is not None:
            message["name"] = turn.name
        return message

    def _shows_reasoning(self, turn: Turn) -> bool:
        return bool(turn.reasoning) and self._thinking is not Thinking.STRIP

    def _thinks(self, turn: Turn) -> bool:
        return self._shows_reasoning(turn) or self._thinking is Thinking.KEEP

    def _text(self, sample: Sample) -> str | RowProblem:
        conversation = sample.content
        assert isinstance(conversation, Conversation), "the layout is a chat format's"
        try:
            if not self._template.shows_reasoning and any(map(self._shows_reasoning, conversation.turns)):
                raise RowError(
                    "has reasoning, but the model's chat template has no place for it; set dataset.thinking to Strip"
                )
            thinks = self._thinks(conversation.turns[-1])
            return self._texts.text(self.messages(conversation), conversation.tools, thinks=thinks)
        except RowError as error:
            return RowProblem(sample.row, sample.line, str(error))
        except TemplateError as error:
            return RowProblem(sample.row, sample.line, f"the model's chat template refuses it: {str(error)[:200]}")
        except RecursionError:
            return RowProblem(sample.row, sample.line, "a call or a tool is nested too deeply for the chat template")

    def _document(self, sample: Sample, ids: list[int]) -> Document | RowProblem:
        assert isinstance(sample.content, Conversation), "the layout is a chat format's"
        turns = sample.content.turns
        try:
            supervised = self._masks.supervised(ids, self._answers(turns))
        except RowError as error:
            return RowProblem(sample.row, sample.line, str(error))
        learnt = np.flatnonzero(supervised)
        if not len(learnt):
            text = "nothing of it is learnt: every answer is context only; remove the row, or give one weight 1"
            return RowProblem(sample.row, sample.line, text, "NothingToLearn")
        end = int(learnt[-1]) + 1
        think_blocks = sum(bool(turn.reasoning) for turn in turns)
        return Document(sample.row, sample.line, np.array(ids[:end], dtype=np.int32), supervised[:end], think_blocks)

    def _answers(self, turns: Sequence[Turn]) -> list[Answer]:
        from_turn = 0
        if self._supervise is Supervise.LAST_TURN:
            from_turn = max(number for number, turn in enumerate(turns) if turn.role == "user")
        return [
            Answer(turn.is_learnt and number >= from_turn, self._thinks(turn))
            for number, turn in enumerate(turns)
            if turn.role == "assistant"
        ]
