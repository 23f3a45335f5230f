"""The text that is trained on: the prompt that a server would send for the last answer, and that answer.

Most conversations have one of few shapes, such as system, user, assistant. For Qwen3's own templates, which copy texts
as they are, a shape is rendered once with marks in place of its texts, and every other conversation of that shape is
put together from the pieces. This is three times as fast as two renderings of every row and gives the same text.
"""

import re
from collections.abc import Sequence
from typing import Any

from finetune_trainer.data.formats import RowError
from finetune_trainer.data.template import ChatTemplate, Message, Tools

EMPTY_THINKING = "<think>\n\n</think>\n\n"

_TREATED = re.compile(r"</?(?:think|tool_response)>")
"""Tags that Qwen3's templates look for in texts."""
_MARK = re.compile("\ue000([0-9]+)\ue001")
_MAX_SHAPES = 4096
_MAX_MESSAGES = 64
_PLAIN_KEYS = ({"role", "content"}, {"role", "content", "reasoning_content"})

_Shape = tuple[bool, tuple[tuple[str, bool], ...]]
_Pieces = tuple[tuple[str, int], ...]
"""Fixed text, and the number of the text behind it; -1: none."""


class TrainingTexts:
    """Makes training texts with one template, and remembers the shapes that it has seen."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._by_shape: dict[_Shape, _Pieces | None] = {}

    def text(self, messages: Sequence[Message], tools: Tools, *, thinks: bool) -> str:
        """The training text of a conversation; `thinks`: the last answer is given as a thinking model's.

        Raises: RowError if a server would not make the model answer this way.
        """
        pieces = None if tools else self._pieces(messages, thinks=thinks)
        if pieces is None:
            return rendered_text(self._template, messages, tools, thinks=thinks)
        texts = [message.get(key, "") for message in messages for key in ("content", "reasoning_content")]
        return "".join([part for fixed, number in pieces for part in (fixed, texts[number] if number >= 0 else "")])

    def _pieces(self, messages: Sequence[Message], *, thinks: bool) -> _Pieces | None:
        """The pieces of the conversation's shape; None: it has to be rendered by itself."""
        if not self._template.is_transparent or len(messages) > _MAX_MESSAGES or not all(map(_is_plain, messages)):
            return None
        shape = (thinks, tuple((message["role"], "reasoning_content" in message) for message in messages))
        if shape not in self._by_shape:
            if len(self._by_shape) >= _MAX_SHAPES:
                return None
            self._by_shape[shape] = self._rendered_pieces(messages, thinks=thinks)
        return self._by_shape[shape]

    def _rendered_pieces(self, messages: Sequence[Message], *, thinks: bool) -> _Pieces | None:
        marked: list[dict[str, Any]] = [
            {key: text if key == "role" else _mark(number, key) for key, text in message.items()}
            for number, message in enumerate(messages)
        ]
        try:
            text = rendered_text(self._template, marked, (), thinks=thinks)
        except RowError:  # it will be said of every such conversation by itself
            return None
        parts = _MARK.split(text)
        numbers = [int(number) for number in parts[1::2]]
        contents = [2 * number for number in range(len(messages))]
        if [number for number in numbers if number % 2 == 0] != contents:  # a text is lost, doubled or moved
            return None
        return tuple(zip(parts[::2], [*numbers, -1], strict=True))


def rendered_text(template: ChatTemplate, messages: Sequence[Message], tools: Tools, *, thinks: bool) -> str:
    """The training text of a conversation, by the template alone.

    Raises: RowError if a server would not make the model answer this way.
    """
    prompt = template.prompt(messages[:-1], tools, thinks=thinks)
    text = template.rendered(messages, tools)
    answer = text[len(prompt) :]
    if not thinks:
        answer = answer.removeprefix(EMPTY_THINKING)
    if text.startswith(prompt) and not answer.startswith(("\n", "\r")):
        return prompt + answer
    if template.always_thinks:
        raise RowError(
            "would be trained on a prompt that serving never makes: the model always thinks and the last answer has no "
            "reasoning; add reasoning_content, or use a model that can answer without thinking"
        )
    raise RowError("would be trained on a prompt that serving never makes: the chat template renders it otherwise")


def _is_plain(message: Message) -> bool:
    """Whether the template copies the texts of a message as they are."""
    if message.keys() not in _PLAIN_KEYS:
        return False
    content, reasoning = message["content"], message.get("reasoning_content", "")
    if content.startswith(("\n", "\r")) or reasoning != reasoning.strip("\n"):
        return False
    return not any("<" in text and _TREATED.search(text) for text in (content, reasoning))


def _mark(number: int, key: str) -> str:
    return f"\ue000{2 * number + (key == 'reasoning_content')}\ue001"
