"""Rows become samples; whatever is not one is named with its row, line, field and value."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from finetune_contract import DatasetFormat
from finetune_trainer.data.errors import RowProblem
from finetune_trainer.data.formats import alpaca, messages, plain_text, prompt_completion, sharegpt
from finetune_trainer.data.formats.conversation import Conversation, Passage, RowError, Sample
from finetune_trainer.data.formats.layout import Layout
from finetune_trainer.data.formats.values import json_text, without_nulls
from finetune_trainer.data.row import Row, encoding_problem

CONTENT: Mapping[DatasetFormat, Callable[[Mapping[str, Any]], Conversation | Passage]] = {
    DatasetFormat.ALPACA: alpaca.content,
    DatasetFormat.MESSAGES: messages.content,
    DatasetFormat.SHARE_GPT: sharegpt.content,
    DatasetFormat.PROMPT_COMPLETION: prompt_completion.content,
    DatasetFormat.TEXT: plain_text.content,
}


def sample_of(row: Row, layout: Layout, *, control_tokens: Collection[str]) -> Sample | RowProblem:
    """What the row says, or what is wrong with it."""
    if row.problem:
        return RowProblem(row.number, row.line, row.problem, "BadJson")
    try:
        columns = layout.fitted(row.value)
        if row.line is None:
            columns = {name: without_nulls(value) for name, value in columns.items()}
        content = CONTENT[layout.format](columns)
        for what, text in _texts(content):
            _check_text(what, text, control_tokens)
    except RowError as error:
        mapped = ", ".join(f"{ours} is column {theirs}" for ours, theirs in layout.columns.items())
        return RowProblem(row.number, row.line, f"{error} (dataset.columns: {mapped})" if mapped else str(error))
    except RecursionError:
        return RowProblem(row.number, row.line, "the row is nested too deeply; expected a few levels of objects")
    return Sample(row.number, row.line, content)


def _texts(content: Conversation | Passage) -> Iterator[tuple[str, str]]:
    """Every text that will be tokenized, with what it is."""
    if isinstance(content, Passage):
        yield "the text", content.text
        return
    for number, tool in enumerate(content.tools):
        yield f"tools[{number}]", json_text(tool, f"tools[{number}]")
    for turn in content.turns:
        yield f"the {turn.role}'s text", turn.content
        if turn.reasoning:
            yield "the assistant's reasoning", turn.reasoning
        for call in turn.tool_calls:
            arguments = json_text(call.arguments, f"the arguments of the call of {call.name}")
            yield f"the call of {call.name}", arguments
            if "tool_call>" in arguments:
                raise RowError(f"the call of {call.name} holds a <tool_call> tag, which would end the call early")


def _check_text(what: str, text: str, control_tokens: Collection[str]) -> None:
    if problem := encoding_problem(text):
        raise RowError(f"{what} is {problem}")
    if "<|" in text and (found := next((token for token in control_tokens if token in text), None)):
        raise RowError(f"{what} holds the control token {found}, which would forge a turn")
