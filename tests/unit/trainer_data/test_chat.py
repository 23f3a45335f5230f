"""What is learnt of a conversation, token by token, with the real Qwen3 tokenizer and each family's chat template."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from finetune_contract import DatasetFormat, Supervise, Thinking
from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.formats import Layout
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.row import Row
from unit.trainer_data.conftest import with_end, with_template
from unit.trainer_data.oracle import learnt_texts
from unit.trainer_data.rows import (
    WEATHER,
    assistant,
    call,
    dataset_config,
    document,
    problem,
    rendered,
    system,
    tool,
    user,
)

EMPTY_THINKING = "<think>\n\n</think>\n\n"
PLAIN = {"messages": [user("q"), assistant("a")]}
REASONED = {"messages": [user("q"), assistant("a", reasoning_content="because")]}
LONG = {
    "messages": [user("a"), assistant("b", reasoning_content="r"), user("c"), assistant("d", reasoning_content="s")]
}


def context(tokenizer: Any, made: Document) -> str:
    """Everything before the last supervised stretch."""
    last_begin = np.flatnonzero(np.diff(made.supervised, prepend=0) == 1)[-1]
    return str(tokenizer.decode(made.input_ids[:last_begin].tolist()))


def test_each_token_of_a_short_row_is_learnt_or_not_as_it_should_be(qwen3: Any) -> None:
    made = document(qwen3, {"messages": [user("Hi"), assistant("Ho!")]})
    tokens = qwen3.convert_ids_to_tokens(made.input_ids.tolist())
    context = ["<|im_start|>", "user", "Ċ", "Hi", "<|im_end|>", "Ċ", "<|im_start|>", "assistant", "Ċ"]
    block = ["<think>", "ĊĊ", "</think>", "ĊĊ"]
    assert tokens == [*context, *block, "Ho", "!", "<|im_end|>"]
    assert made.supervised.tolist() == [0] * 13 + [1] * 3


@pytest.mark.parametrize(
    ("family", "thinking", "row", "answer", "prompt_end"),
    [
        ("Hybrid", Thinking.AUTO, REASONED, "<think>\nbecause\n</think>\n\na<|im_end|>", "assistant\n"),
        ("Hybrid", Thinking.KEEP, REASONED, "<think>\nbecause\n</think>\n\na<|im_end|>", "assistant\n"),
        ("Hybrid", Thinking.STRIP, REASONED, "a<|im_end|>", "assistant\n" + EMPTY_THINKING),
        ("Hybrid", Thinking.AUTO, PLAIN, "a<|im_end|>", "assistant\n" + EMPTY_THINKING),
        ("Hybrid", Thinking.KEEP, PLAIN, EMPTY_THINKING + "a<|im_end|>", "assistant\n"),
        ("Hybrid", Thinking.STRIP, PLAIN, "a<|im_end|>", "assistant\n" + EMPTY_THINKING),
        ("Instruct", Thinking.AUTO, PLAIN, "a<|im_end|>", "assistant\n"),
        ("Instruct", Thinking.KEEP, PLAIN, "a<|im_end|>", "assistant\n"),
        ("Instruct", Thinking.STRIP, REASONED, "a<|im_end|>", "assistant\n"),
        ("Thinking", Thinking.AUTO, REASONED, "because\n</think>\n\na<|im_end|>", "assistant\n<think>\n"),
        ("Thinking", Thinking.KEEP, REASONED, "because\n</think>\n\na<|im_end|>", "assistant\n<think>\n"),
    ],
)
def test_think_blocks_follow_the_policy_in_each_family(
    families: Mapping[str, Any], family: str, thinking: Thinking, row: Any, answer: str, prompt_end: str
) -> None:
    made = document(families[family], row, thinking=thinking)
    assert learnt_texts(families[family], made) == [answer]
    assert context(families[family], made).endswith(prompt_end)


@pytest.mark.parametrize(
    ("family", "thinking", "row", "said"),
    [
        ("Instruct", Thinking.AUTO, REASONED, "has no place for it; set dataset.thinking to Strip"),
        ("Instruct", Thinking.KEEP, LONG, "has no place for it; set dataset.thinking to Strip"),
        ("Thinking", Thinking.AUTO, PLAIN, "add reasoning_content, or use a model that can answer without thinking"),
        ("Thinking", Thinking.KEEP, PLAIN, "add reasoning_content, or use a model that can answer without thinking"),
    ],
)
def test_rows_that_the_family_cannot_say_are_refused(
    families: Mapping[str, Any], family: str, thinking: Thinking, row: Any, said: str
) -> None:
    assert said in problem(families[family], row, thinking=thinking)


def test_reasoning_that_happens_to_stand_in_the_answer_is_not_taken_for_shown(families: Mapping[str, Any]) -> None:
    row = {"messages": [user("q"), assistant("banana", reasoning_content="a")]}
    assert "has no place for it" in problem(families["Instruct"], row)


def test_every_answer_is_learnt_and_nothing_else(qwen3: Any) -> None:
    row = {"messages": [user("a"), assistant("b"), user("c"), assistant("d")]}
    made = document(qwen3, row, system_prompt="Be 甄嬛")
    assert learnt_texts(qwen3, made) == ["b<|im_end|>", "d<|im_end|>"]
    assert context(qwen3, made).startswith("<|im_start|>system\nBe 甄嬛<|im_end|>\n<|im_start|>user\na<|im_end|>\n")


def test_reasoning_of_earlier_turns_is_neither_shown_nor_learnt(families: Mapping[str, Any]) -> None:
    made = document(families["Hybrid"], LONG)
    assert learnt_texts(families["Hybrid"], made) == ["b<|im_end|>", "<think>\ns\n</think>\n\nd<|im_end|>"]
    made = document(families["Hybrid"], LONG, supervise=Supervise.LAST_TURN)
    assert learnt_texts(families["Hybrid"], made) == ["<think>\ns\n</think>\n\nd<|im_end|>"]
    assert made.think_blocks == 2


CALLS = {
    "messages": [
        user("a"), assistant("b"), user("c"), assistant("Let me look.", tool_calls=[call(), call(arguments={})]),
        tool("sun"), tool("rain"), assistant("d"),
    ],
    "tools": [WEATHER],
}  # fmt: skip
CALL = '<tool_call>\n{"name": "weather", "arguments": %s}\n</tool_call>'


@pytest.mark.parametrize("family", ["April", "Hybrid", "Instruct"])
def test_calls_are_learnt_and_results_are_not(families: Mapping[str, Any], family: str) -> None:
    asked = "\n".join(["Let me look.", CALL % '{"city": "Paris"}', CALL % "{}"])
    made = document(families[family], CALLS)
    assert learnt_texts(families[family], made) == ["b<|im_end|>", f"{asked}<|im_end|>", "d<|im_end|>"]
    assert "<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n" in context(families[family], made)
    assert '"function": {"name": "weather"' in context(families[family], made)
    made = document(families[family], CALLS, supervise=Supervise.LAST_TURN)
    assert learnt_texts(families[family], made) == [f"{asked}<|im_end|>", "d<|im_end|>"]


def test_a_conversation_may_end_with_a_call(qwen3: Any) -> None:
    row = {"messages": [user("q"), assistant(None, tool_calls=[call()])], "tools": [WEATHER]}
    assert learnt_texts(qwen3, document(qwen3, row)) == [CALL % '{"city": "Paris"}' + "<|im_end|>"]


def test_an_answer_of_weight_zero_is_context(qwen3: Any) -> None:
    row = {
        "messages": [
            user("a"),
            assistant("b", weight=0),
            user("c"),
            assistant("d"),
            user("e"),
            assistant("f", weight=0),
        ]
    }
    made = document(qwen3, row)
    assert learnt_texts(qwen3, made) == ["d<|im_end|>"]
    assert qwen3.decode(made.input_ids.tolist()).endswith("d<|im_end|>")  # what follows teaches nothing


def test_a_row_of_which_nothing_is_learnt_is_refused(qwen3: Any) -> None:
    made = rendered(qwen3, {"messages": [user("a"), assistant("b", weight=0)]})
    assert not isinstance(made, Document)
    assert made.reason == "NothingToLearn"
    assert "every answer is context only" in made.text


def test_a_row_keeps_its_own_system_message(qwen3: Any) -> None:
    row = {"messages": [system("mine"), user("a"), assistant("b")]}
    made = context(qwen3, document(qwen3, row, system_prompt="default"))
    assert "mine" in made
    assert "default" not in made


def test_think_blocks_with_content_are_counted_even_if_stripped(qwen3: Any) -> None:
    assert document(qwen3, REASONED, thinking=Thinking.STRIP).think_blocks == 1
    assert document(qwen3, PLAIN, thinking=Thinking.KEEP).think_blocks == 0


def test_a_batch_renders_as_its_rows_do_alone(qwen3: Any) -> None:
    rows = [Row(n, n, {"messages": [user("q" * n), assistant("a" * n)]}) for n in range(1, 5)]
    rows.insert(2, Row(9, 9, {"messages": []}))
    renderer = Renderer(qwen3, dataset_config())
    together = renderer.documents(Layout(DatasetFormat.MESSAGES), rows)
    alone = [renderer.documents(Layout(DatasetFormat.MESSAGES), [row])[0] for row in rows]
    assert [made.row for made in together] == [1, 2, 9, 3, 4]
    for one, other in zip(alone, together, strict=True):
        if isinstance(one, Document):
            assert isinstance(other, Document)
            assert one.input_ids.tolist() == other.input_ids.tolist()
        else:
            assert one == other


PLAIN_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_template_without_thinking_learns_the_whole_answer(qwen3: Any) -> None:
    tokenizer = with_template(qwen3, PLAIN_CHATML)
    assert learnt_texts(qwen3, document(tokenizer, PLAIN)) == ["a<|im_end|>"]
    assert "no place for it; set dataset.thinking to Strip" in problem(tokenizer, REASONED)


def test_an_empty_block_that_serving_never_sends_is_left_out(families: Mapping[str, Any]) -> None:
    hybrid = families["Hybrid"]
    never = hybrid.chat_template.replace("enable_thinking is false", "enable_thinking == 'never'")
    made = document(with_template(hybrid, never), PLAIN)
    assert hybrid.decode(made.input_ids.tolist()).endswith("<|im_start|>assistant\na<|im_end|>")


def test_an_answer_that_begins_in_the_middle_of_a_token_is_refused(families: Mapping[str, Any]) -> None:
    hybrid = families["Hybrid"]
    spaced = hybrid.chat_template.replace("</think>\\n\\n' + content.lstrip('\\n')", "</think>\\n\\n    \\n' + content")
    assert "it ends in the middle of a token" in problem(with_template(hybrid, spaced), PLAIN)


def test_a_template_may_refuse_a_row(qwen3: Any) -> None:
    strict = "{% if messages[0].content == 'x' %}{{ raise_exception('no x here') }}{% endif %}" + PLAIN_CHATML
    said = problem(with_template(qwen3, strict), {"messages": [user("x"), assistant("a")]})
    assert said == "the model's chat template refuses it: no x here"


def test_a_template_that_loses_an_answer_is_found_out(qwen3: Any) -> None:
    loses = PLAIN_CHATML.replace("{% for m in messages %}", "{% for m in messages if m.content != 'lost' %}")
    row = {"messages": [user("q"), assistant("lost"), user("q"), assistant("a")]}
    assert problem(with_template(qwen3, loses), row) == "the chat template rendered 1 assistant turns of 2"


def test_a_question_in_the_tags_of_a_tool_is_refused_where_the_template_takes_it_for_one(qwen3: Any) -> None:
    row = {"messages": [user("<tool_response>x</tool_response>"), assistant("a")]}
    assert "would be trained on a prompt that serving never makes" in problem(qwen3, row)


@pytest.mark.timeout(60)
def test_a_row_of_a_megabyte_is_rendered_in_linear_time(qwen3: Any) -> None:
    made = document(qwen3, {"messages": [user("q"), assistant("a b " * 250_000)]})
    assert made.supervised.sum() == len(made.input_ids) - 13
    made = document(qwen3, {"messages": [user("q"), assistant("a", weight=0)] * 3000 + [user("q"), assistant("a")]})
    assert made.supervised.tolist() == [0] * (len(made.input_ids) - 2) + [1] * 2


class TestModelsThatCannot:
    """A model whose template is no good for conversations may be good for plain text."""

    CHAT = Layout(DatasetFormat.MESSAGES)
    TEXT = Layout(DatasetFormat.TEXT)

    def refused(self, tokenizer: Any, **fields: Any) -> tuple[str, str]:
        renderer = Renderer(tokenizer, dataset_config(**fields))
        renderer.check(self.TEXT)
        with pytest.raises(PreparationError) as caught:
            renderer.check(self.CHAT)
        with pytest.raises(PreparationError):
            renderer.documents(self.CHAT, [Row(1, 1, PLAIN)])
        return caught.value.failure.reason, caught.value.failure.message

    def test_a_base_model_without_template_learns_plain_text_alone(self, qwen3: Any) -> None:
        base = with_end(with_template(qwen3, None), "<|endoftext|>")
        reason, message = self.refused(base)
        assert reason == "NoChatTemplate"
        assert "use the chat model (Qwen3-8B rather than Qwen3-8B-Base), add Qwen3's chat_template.jinja" in message
        assert "or bring plain text (dataset.format: Text)" in message
        made = document(base, {"text": "甄嬛 says\n"}, DatasetFormat.TEXT)
        assert base.decode(made.input_ids.tolist()) == "甄嬛 says\n<|endoftext|>"
        assert made.supervised.tolist() == [0] + [1] * (len(made.input_ids) - 1)
        assert Renderer(base, dataset_config()).template_digest is None

    def test_a_base_model_with_template_ends_answers_as_the_template_does(
        self, families: Mapping[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        Renderer(families["Hybrid"], dataset_config())
        assert not caplog.messages
        base = with_end(families["Hybrid"], "<|endoftext|>")
        assert learnt_texts(base, document(base, PLAIN)) == ["a<|im_end|>"]
        assert caplog.messages == [
            "model: its texts end with <|endoftext|>, and answers are learnt to end with <|im_end|>; serve it with "
            "both as stop tokens"
        ]

    def test_a_template_of_another_family(self, qwen3: Any) -> None:
        foreign = with_template(qwen3, "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}")
        reason, message = self.refused(foreign)
        assert reason == "UnknownChatTemplate"
        assert "does not mark answers with" in message

    def test_a_template_whose_control_tokens_the_tokenizer_does_not_know(self, tmp_path: Any, qwen3: Any) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        letters = {letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
        bare = Tokenizer(models.BPE(vocab=letters, merges=[]))
        bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        other = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="!", chat_template=PLAIN_CHATML)  # type: ignore[no-untyped-call]
        reason, message = self.refused(other)
        assert reason == "UnknownChatTemplate"
        assert "no control tokens of its tokenizer" in message

    def test_stripping_what_a_model_always_does(self, families: Mapping[str, Any]) -> None:
        reason, message = self.refused(families["Thinking"], thinking="Strip")
        assert reason == "AlwaysThinks"
        assert "set it to Auto, or use a model that can answer without thinking" in message

    def test_options_for_conversations_say_nothing_of_text(self, qwen3: Any, caplog: pytest.LogCaptureFixture) -> None:
        Renderer(qwen3, dataset_config()).check(self.TEXT)
        Renderer(qwen3, dataset_config(system_prompt="Be kind")).check(self.CHAT)
        assert not caplog.messages
        Renderer(qwen3, dataset_config(system_prompt="Be kind", thinking="Keep")).check(self.TEXT)
        assert caplog.messages == [
            "dataset: plain text is learnt as it stands; thinking, system_prompt: for conversations alone"
        ]

    def test_a_tokenizer_without_an_end_token(self, qwen3: Any) -> None:
        renderer = Renderer(with_end(qwen3, None), dataset_config())
        renderer.check(self.CHAT)
        with pytest.raises(PreparationError, match="its tokenizer has no eos_token") as caught:
            renderer.check(self.TEXT)
        assert caught.value.failure.reason == "NoEndToken"


def test_the_digest_tells_templates_apart(families: Mapping[str, Any]) -> None:
    digests = {Renderer(tokenizer, dataset_config()).template_digest for tokenizer in families.values()}
    assert len(digests) == 4
    assert all(digest is not None and len(digest) == 64 for digest in digests)
