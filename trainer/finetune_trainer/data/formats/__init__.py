"""From rows of any format to conversations and passages: alpaca, messages, sharegpt, prompt_completion, plain_text."""

from finetune_trainer.data.formats.conversation import Conversation, Passage, RowError, Sample, ToolCall, Turn
from finetune_trainer.data.formats.layout import Layout, found_layout
from finetune_trainer.data.formats.samples import sample_of

__all__ = ["Conversation", "Layout", "Passage", "RowError", "Sample", "ToolCall", "Turn", "found_layout", "sample_of"]
