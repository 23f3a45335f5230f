"""A tokenizer's own chat template: what a server would send, and what a whole conversation looks like."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.errors import PreparationError

HEADER = "<|im_start|>assistant\n"
END = "<|im_end|>"

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]

_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_TRANSPARENT = frozenset(
    {
        "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5",  # the hybrid models, April 2025
        "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8",  # the hybrid models, revised
        "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326",  # Instruct-2507
        "3802169b2a02b81e6adb7ab4f64f91ff02db753c8c3a64a01c35192d3a61d8d7",  # Thinking-2507
    }
)
"""Fingerprints of Qwen3's own templates."""


class ChatTemplate:
    """The chat template of one tokenizer, with what can be known of it before any row is seen."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises: PreparationError if there is no template, or one that does not mark answers as Qwen3's do."""
        if not tokenizer.chat_template:
            raise PreparationError(
                "NoChatTemplate",
                "model: its tokenizer has no chat template, so conversations cannot be rendered; use the chat model "
                "(Qwen3-8B rather than Qwen3-8B-Base), add Qwen3's chat_template.jinja to the model folder, or bring "
                "plain text (dataset.format: Text)",
            )
        self._tokenizer = tokenizer
        self.digest = template_digest(tokenizer)
        self.thinking_tail = self._tail(thinks=True)
        """What a server puts behind the assistant's header when the model is asked to think: an opened block if the
        model always thinks, else nothing."""
        self.plain_tail = self._tail(thinks=False)
        """The same when it is asked not to: an empty block if the model is a hybrid."""
        self.shows_reasoning = "\ue000" in self.rendered(
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "reasoning_content": "\ue000"}]
        )
        """Whether reasoning has a place in the last answer."""

    @property
    def always_thinks(self) -> bool:
        """Whether a server opens a think block that nothing can close but the model."""
        return self.plain_tail.count("<think>") > self.plain_tail.count("</think>")

    @property
    def is_transparent(self) -> bool:
        """Whether this is one of Qwen3's own templates, whose dealings with a text are known.

        They copy texts as they are, unless one holds a tag of a think block or of a tool's response, or begins with a
        line break.
        """
        template = self._tokenizer.chat_template
        return isinstance(template, str) and _fingerprint(template) in _TRANSPARENT

    def rendered(self, messages: Sequence[Message], tools: Tools = ()) -> str:
        """A whole conversation."""
        return self._applied(messages, tools)

    def prompt(self, messages: Sequence[Message], tools: Tools = (), *, thinks: bool) -> str:
        """What a server sends so that the model answers `messages`."""
        return self._applied(messages, tools, add_generation_prompt=True, enable_thinking=thinks)

    def _tail(self, *, thinks: bool) -> str:
        before, header, tail = self.prompt([{"role": "user", "content": "?"}], thinks=thinks).partition(HEADER)
        if not header or END not in before:
            raise PreparationError(
                "UnknownChatTemplate",
                f"model: its chat template does not mark answers with {HEADER!r}, so what is to be learnt cannot be "
                "told from the rest; use a Qwen3 model's tokenizer and chat template",
            )
        return tail

    def _applied(self, messages: Sequence[Message], tools: Tools, **options: bool) -> str:
        listed = [dict(tool) for tool in tools] or None
        return str(self._tokenizer.apply_chat_template(list(messages), tools=listed, tokenize=False, **options))


def template_digest(tokenizer: Any) -> str | None:
    """SHA-256 of the chat template; None: there is none."""
    template = tokenizer.chat_template
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint(template: str) -> str:
    """SHA-256 without comments and outer white space, which decide nothing about how texts are dealt with."""
    return hashlib.sha256(_COMMENT.sub("", template).strip().encode()).hexdigest()
