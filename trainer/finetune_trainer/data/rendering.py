"""From rows to documents: the whole way of one row, a pure function that any process may run."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from finetune_contract import DatasetConfig
from finetune_trainer.data.chat import ChatRenderer
from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import PreparationError, RowProblem
from finetune_trainer.data.formats import Layout, sample_of
from finetune_trainer.data.passages import PassageRenderer
from finetune_trainer.data.row import Row
from finetune_trainer.data.template import template_digest
from finetune_trainer.data.tokenizing import control_tokens

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Renderer:
    """Renders and tokenizes the rows of a dataset for one model."""

    def __init__(self, tokenizer: Any, config: DatasetConfig) -> None:
        self._control_tokens = control_tokens(tokenizer)
        self.template_digest = template_digest(tokenizer)
        """SHA-256 of the model's chat template; None: it has none."""
        self._chat = _made(ChatRenderer, tokenizer, config)
        self._passages = _made(PassageRenderer, tokenizer)
        self._conversation_options = config.conversation_options

    def check(self, layout: Layout) -> None:
        """Refuse a file that this model cannot be trained on, before its rows are read.

        Raises: PreparationError.
        """
        self._for(layout)
        if not layout.is_chat and self._conversation_options:
            options = ", ".join(self._conversation_options)
            LOG.warning("dataset: plain text is learnt as it stands; %s: for conversations alone", options)

    def documents(self, layout: Layout, rows: Sequence[Row]) -> list[Document | RowProblem]:
        """The rows as documents, in order; in place of one that cannot be trained on, what is wrong with it.

        Raises: PreparationError if `check` does.
        """
        samples = [sample_of(row, layout, control_tokens=self._control_tokens) for row in rows]
        return self._for(layout).documents(samples)

    def _for(self, layout: Layout) -> ChatRenderer | PassageRenderer:
        renderer = self._chat if layout.is_chat else self._passages
        if isinstance(renderer, PreparationError):
            raise renderer
        return renderer


def _made(kind: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R | PreparationError:
    """A renderer, or why there is none: a model that is no good for conversations may be good for plain text."""
    try:
        return kind(*arguments, **options)
    except PreparationError as error:
        return error
