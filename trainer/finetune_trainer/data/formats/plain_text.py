"""Text: one column of plain text, for continued pretraining."""

from collections.abc import Mapping
from typing import Any

from finetune_trainer.data.formats.conversation import Passage
from finetune_trainer.data.formats.values import text


def content(columns: Mapping[str, Any]) -> Passage:
    """What a row of this format says.

    Raises: RowError.
    """
    return Passage(text(columns["text"], "text"))
