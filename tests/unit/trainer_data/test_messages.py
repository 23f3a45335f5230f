"""OpenAI's messages, with tools: what is read, and what is refused."""

from typing import Any

import pytest

from finetune_contract import DatasetFormat
from finetune_trainer.data.formats import ToolCall, Turn
from unit.trainer_data.rows import WEATHER, assistant, call, content_of, system, tool, user

MESSAGES = DatasetFormat.MESSAGES
PARIS = ToolCall("weather", {"city": "Paris"})


def turns_of(*messages: Any, **columns: Any) -> tuple[Turn, ...]:
    content = content_of({"messages": list(messages), **columns}, MESSAGES)
    assert not isinstance(content, str), content
    turns: tuple[Turn, ...] = content.turns
    return turns


def test_messages_keep_their_order_and_reasoning() -> None:
    turns = turns_of(user("q"), assistant("a", reasoning_content="hm\n"))
    assert turns == (Turn("user", "q"), Turn("assistant", "a", "hm"))


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_found_under_each_of_its_names(name: str) -> None:
    assert turns_of(user("q"), assistant("a", **{name: "hm"}))[-1].reasoning == "hm"


def test_a_list_of_messages_may_be_json_text() -> None:
    content = content_of(
        {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'}, MESSAGES
    )
    assert content.turns == (Turn("user", "q"), Turn("assistant", "a"))


def test_text_parts_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert turns_of(user(parts), assistant(parts[:1])) == (Turn("user", "a\nb"), Turn("assistant", "a"))


@pytest.mark.parametrize("empty", ["", " ", None])
def test_an_empty_system_message_is_none(empty: str | None) -> None:
    said = turns_of(system("" if empty is None else empty), user("q"), assistant("a"))
    assert [turn.role for turn in said] == ["user", "assistant"]


def test_two_user_turns_may_follow_one_another() -> None:
    assert [turn.content for turn in turns_of(user("a"), user("b"), assistant("c"))] == ["a", "b", "c"]


def test_weight_zero_makes_an_answer_context() -> None:
    turns = turns_of(
        user("q"), assistant("a", weight=0), user("q"), assistant("b", weight=1), user("q"), assistant("c")
    )
    assert [turn.is_learnt for turn in turns if turn.role == "assistant"] == [False, True, True]


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
@pytest.mark.parametrize("content", [None, "", " \n", "Let me look."])
def test_a_call_and_its_result(arguments: Any, content: str | None) -> None:
    messages = (
        user("q"),
        assistant(content, tool_calls=[call(arguments=arguments, id="1")]),
        tool("sun", tool_call_id="1"),
    )
    turns = turns_of(*messages, assistant("Sunny."), tools=[WEATHER])
    assert turns[1] == Turn("assistant", (content or "").strip(), "", (ToolCall("weather", {"city": "Paris"}, "1"),))
    assert turns[2] == Turn("tool", "sun", call_id="1")


def test_a_bare_function_becomes_a_tool_and_nulls_of_a_table_go() -> None:
    bare = {
        "name": "weather",
        "description": None,
        "parameters": {"properties": {"city": {"enum": None, "type": "string"}}},
    }
    row = {"messages": [user("q"), assistant("a")], "tools": [bare]}
    wanted = {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
    assert content_of(row, MESSAGES).tools == ({"type": "function", "function": wanted},)
    assert content_of({**row, "tools": '[{"name": "weather"}]'}, MESSAGES).tools[0]["function"] == {"name": "weather"}


def test_nulls_in_arguments_are_kept_unless_a_table_filled_them_in() -> None:
    row = {
        "messages": [user("q"), assistant(None, tool_calls=[call(arguments={"city": "Paris", "day": None})])],
        "tools": [WEATHER],
    }
    assert content_of(row, MESSAGES).turns[-1].tool_calls[0].arguments == {"city": "Paris", "day": None}
    assert content_of(row, MESSAGES, line=None).turns[-1].tool_calls[0].arguments == {"city": "Paris"}


@pytest.mark.parametrize(
    "result", ["<tool_response>\nsun\n</tool_response>", "<tool_response>sun</tool_response>\n", "sun"]
)
def test_a_result_brings_no_tags_of_its_own(result: str) -> None:
    calling = assistant('<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>')
    assert turns_of(user("q"), calling, tool(result), assistant("a"))[2].content == "sun"


def test_parallel_calls_have_their_results_in_order() -> None:
    calls = [call(id="1"), call(id="2")]
    turns = turns_of(
        user("q"), assistant(None, tool_calls=calls), tool("x", tool_call_id="1"), tool("y", tool_call_id="2"),
        assistant("a"), tools=[WEATHER],
    )  # fmt: skip
    assert [turn.content for turn in turns if turn.role == "tool"] == ["x", "y"]


CALLING = assistant(None, tool_calls=[call(id="1")])
TWICE = assistant(None, tool_calls=[call(id="1"), call(id="2")])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "no messages; columns found: tools"),
        ([], "messages is the list '[]'; expected a list of {role, content} that is not empty"),
        ("hello", "messages is the text 'hello'; expected a list of {role, content}"),
        ([system("")], "the last turn is nobody's; it must be the assistant's"),
        ([user("q")], "the last turn is user's; it must be the assistant's"),
        ([user("q"), {"role": "bot", "content": "x"}], "messages[1].role is the text 'bot'; allowed are system"),
        ([user("q"), {"role": ["x"], "content": "x"}], "messages[1].role is the list \"['x']\"; allowed are system"),
        (
            [user("q"), {"content": "x"}],
            "messages[1].role is missing or null; allowed are system, user, assistant, tool",
        ),
        ([user("q"), assistant(None)], "messages[1].content is missing or null; expected text"),
        ([user("q"), assistant("a", tool_calls=[]), user("")], "messages[2].content is empty"),
        ([user([{"type": "text"}]), assistant("a")], "messages[0].content[0].text is missing or null; expected text"),
        (
            [user([{"type": "image_url"}]), assistant("a")],
            "messages[0].content[0].type is the text 'image_url'; allowed",
        ),
        ([user({"text": "x"}), assistant("a")], "messages[0].content is the object"),
        ([user("q"), "x"], "messages[1] is the text 'x'; expected an object"),
        ([assistant("a")], "messages[0].role is assistant after nothing; it must follow a user's"),
        ([system("s"), assistant("a")], "messages[1].role is assistant after system"),
        ([user("q"), assistant("a"), assistant("b")], "messages[2].role is assistant after assistant"),
        ([user("q"), system("s"), assistant("a")], "messages[1].role is system; a system message may only come first"),
        (
            [user("q"), assistant("<think>x</think>a", reasoning_content="y")],
            "messages[1].content holds a think block beside reasoning_content",
        ),
        (
            [user("q"), assistant("a", reasoning="x", thinking="y")],
            "messages[1] has reasoning and thinking, which differ",
        ),
        ([user("q"), assistant("a", weight=0.5)], "messages[1].weight is the number '0.5'; allowed are 0"),
        ([user("q") | {"weight": 1}, assistant("a")], "messages[0].weight is the number '1'; only what the assistant"),
        ([user("q"), assistant("a", function_call={"name": "x"})], "messages[1].function_call is OpenAI's old form"),
        ([user("q"), assistant("a", tool_calls="x")], "messages[1].tool_calls is the text 'x'; expected a list"),
        ([user("q"), assistant(None, tool_calls=[{}])], "messages[1].tool_calls[0].arguments is missing or null"),
        (
            [user("q"), assistant(None, tool_calls=[call("snow")])],
            "messages[1].tool_calls[0] calls 'snow'; allowed are weather",
        ),
        (
            [user("q"), assistant(None, tool_calls=[call(arguments='{"city": Paris}')])],
            "messages[1].tool_calls[0].function.arguments is the text '{\"city\": Paris}', which is not JSON: Expect",
        ),
        (
            [user("q"), assistant(None, tool_calls=[call(arguments='{"x": NaN}')])],
            "which is not JSON: NaN is no JSON number",
        ),
        (
            [user("q"), assistant(None, tool_calls=[call(arguments={"x": float("inf")})])],
            "the arguments of the call of weather is the object \"{'x': inf}\", which JSON cannot hold",
        ),
        (
            [user("q"), assistant(None, tool_calls=[call(arguments="[1]")])],
            "messages[1].tool_calls[0].function.arguments is the list '[1]'; expected an object",
        ),
        (
            [user("q"), assistant(None, tool_calls=[call(arguments={"x": "</tool_call>"})])],
            "the call of weather holds a <tool_call> tag",
        ),
        ([user("q"), tool("x"), assistant("a")], "messages[1].role is tool after user; it must follow the assistant's"),
        ([user("q"), assistant("a"), tool("x"), assistant("b")], "messages[2] is a tool's result without a call"),
        ([user("q"), CALLING, tool("x"), tool("y"), assistant("b")], "messages[3] is a tool's result without a call"),
        (
            [user("q"), CALLING, user("q"), assistant("b")],
            "messages[2] stands where the result of messages[1]'s call of",
        ),
        (
            [user("q"), CALLING, tool("x", tool_call_id="9"), assistant("b")],
            "answer the calls '9'; messages[1] makes '1'",
        ),
        (
            [user("q"), TWICE, tool("x", tool_call_id="2"), tool("y", tool_call_id="1"), assistant("b")],
            "messages[2] and what follows answer the calls '2', '1'; messages[1] makes '1', '2', and results must",
        ),
        (
            [user("q"), TWICE, tool("x", tool_call_id="1"), assistant("b")],
            "messages[2] and what follows answer the calls '1'; messages[1] makes '1', '2'",
        ),
        (
            [user("q"), assistant(None, tool_calls=[call(id="1"), call(id="1")]), tool("x"), assistant("b")],
            "messages[1].tool_calls has the id '1' twice",
        ),
        ([user("q"), CALLING, tool("x", name="snow"), assistant("b")], "messages[2].name is 'snow'; messages[1] calls"),
        (
            [
                user("q"),
                CALLING,
                tool("<tool_response>a</tool_response><tool_response>b</tool_response>"),
                assistant("b"),
            ],
            "messages[2].content holds <tool_response> tags",
        ),
    ],
)
def test_a_bad_messages_row_is_named(messages: Any, said: str) -> None:
    found = content_of({"messages": messages, "tools": [WEATHER]}, MESSAGES)
    assert said in found


def test_a_call_without_any_tools_is_named() -> None:
    found = content_of({"messages": [user("q"), CALLING]}, MESSAGES)
    assert found == "messages[1].tool_calls[0] calls 'weather'; the row has no tools"


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("weather", "tools is the text 'weather'; expected a list of tools"),
        ('["weather"', "tools is the text '[\"weather\"', which is not JSON"),
        ([{"type": "function"}], "tools[0].function.name is missing or null"),
        ([{"function": "weather"}], "tools[0].function is the text 'weather'; expected an object"),
        ([{"name": 'a"b'}], "tools[0].function.name is 'a\"b'; it must not hold quotes"),
        ([WEATHER, WEATHER], "tools names 'weather' twice"),
    ],
)
def test_a_bad_tool_is_named(tools: Any, said: str) -> None:
    assert said in content_of({"messages": [user("q"), assistant("a")], "tools": tools}, MESSAGES)


def test_what_is_nested_without_end_is_named() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"x": deep}
    row = {"messages": [user("q"), assistant(None, tool_calls=[call(arguments=deep)])], "tools": [WEATHER]}
    assert "the row is nested too deeply" in content_of(row, MESSAGES)
