"""Tools of a row: what is at hand, what is called, what comes back."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from finetune_trainer.data.formats.conversation import Placed, RowError, ToolCall
from finetune_trainer.data.formats.values import json_text, listing, mapping, parsed_json, seen, text, without_nulls

CALL_MARK = "<tool_call>"
"""How a call stands in an answer that was written out as text."""


def tools_of(columns: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The tools column: a list, or the same as JSON text; each in OpenAI's form, or its function alone."""
    value = columns.get("tools")
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    tools = tuple(
        _tool(item, f"tools[{number}]")
        for number, item in enumerate(listing(value, "tools", "a list of tools, or the same as JSON text"))
    )
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError(f"tools names {twice!r} twice; a call of it would be ambiguous")
    return tools


def _tool(value: Any, place: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = parsed_json(value, place)
    tool = without_nulls(mapping(value, place))
    if "function" not in tool:
        tool = {"type": "function", "function": {key: item for key, item in tool.items() if key != "type"}}
    name = text(mapping(tool["function"], f"{place}.function").get("name"), f"{place}.function.name")
    if json_text(name, place) != f'"{name}"':  # the template writes it between quotes as it is
        raise RowError(f"{place}.function.name is {name!r}; it must not hold quotes, backslashes or control characters")
    return tool  # type: ignore[no-any-return]


def called_tool(value: Any, place: str) -> ToolCall:
    """A call in OpenAI's form, {"id", "function": {"name", "arguments"}}, or its function alone."""
    call = mapping(value, place)
    function, inside = (call, place) if call.get("function") is None else (call["function"], f"{place}.function")
    function = mapping(function, inside)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parsed_json(arguments, f"{inside}.arguments")
    if not isinstance(arguments, Mapping):
        raise RowError(f"{inside}.arguments is {seen(arguments)}; expected an object, or the same as JSON text")
    call_id = call.get("id")
    return ToolCall(
        text(function.get("name"), f"{inside}.name"),
        arguments,
        None if call_id is None else text(call_id, f"{place}.id"),
    )


def check_calls(turns: Sequence[Placed], tools: Iterable[Mapping[str, Any]]) -> None:
    """Every call is of a tool at hand and has its result, every result has its call.

    Qwen3's template shows no ids, so results must stand in the order of their calls: nothing else links them.
    Raises: RowError.
    """
    known = {tool["function"]["name"] for tool in tools}
    for number, (place, turn) in enumerate(turns):
        for index, call in enumerate(turn.tool_calls):
            if call.name not in known:
                at_hand = f"allowed are {', '.join(sorted(known))}" if known else "the row has no tools"
                raise RowError(f"{place}.tool_calls[{index}] calls {call.name!r}; {at_hand}")
        if turn.role == "assistant" and number + 1 < len(turns):
            _check_results(turns, number)


def _check_results(turns: Sequence[Placed], asked: int) -> None:
    """The results that follow the assistant's turn number `asked`."""
    place, turn = turns[asked]
    results = list(
        takewhile(lambda each: each.turn.role == "tool", (turns[number] for number in range(asked + 1, len(turns))))
    )
    calls = len(turn.tool_calls) + turn.content.count(CALL_MARK)
    if len(results) > calls:
        raise RowError(f"{results[calls].place} is a tool's result without a call; {place} makes {calls or 'none'}")
    if turn.tool_calls and not results:
        names = ", ".join(call.name for call in turn.tool_calls)
        raise RowError(f"{turns[asked + 1].place} stands where the result of {place}'s call of {names} should")
    ids = [call.id for call in turn.tool_calls]
    if None not in ids and len(set(ids)) < len(ids):
        raise RowError(f"{place}.tool_calls has the id {next(id for id in ids if ids.count(id) > 1)!r} twice")
    given = [result.turn.call_id for result in results]
    if turn.tool_calls and None not in ids and None not in given and given != ids:
        expected = ", ".join(map(repr, ids))
        raise RowError(
            f"{results[0].place} and what follows answer the calls {', '.join(map(repr, given))}; {place} makes "
            f"{expected}, and results must stand in that order, each once"
        )
    _check_names(results, place, {call.name for call in turn.tool_calls})


def _check_names(results: Sequence[Placed], place: str, called: set[str]) -> None:
    for result in results:
        if called and result.turn.name is not None and result.turn.name not in called:
            raise RowError(f"{result.place}.name is {result.turn.name!r}; {place} calls {', '.join(sorted(called))}")
