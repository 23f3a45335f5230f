"""Texts put together from the pieces of a shape are those that the chat template renders."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.data.formats import RowError
from finetune_trainer.data.template import ChatTemplate
from finetune_trainer.data.training_text import TrainingTexts, rendered_text
from unit.trainer_data.conftest import with_template
from unit.trainer_data.dialogues import TEXTS
from unit.trainer_data.rows import WEATHER

FAMILIES = ("April", "Hybrid", "Instruct", "Thinking")
TAGGED = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_response>x</tool_response>",
        "<tool_response>",
        "<think>x</think>y",
        "\n",
        "\nx",
        "x\n",
    ]
)
ANY_TEXT = TEXTS | TAGGED | st.tuples(TAGGED, TEXTS, TAGGED).map("".join)
ANSWERS = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": ANY_TEXT}, optional={"reasoning_content": ANY_TEXT}
)
MESSAGES = st.tuples(
    st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": ANY_TEXT}), max_size=1),
    st.lists(
        st.tuples(st.fixed_dictionaries({"role": st.just("user"), "content": ANY_TEXT}), ANSWERS),
        min_size=1,
        max_size=3,
    ),
).map(lambda parts: [*parts[0], *(message for pair in parts[1] for message in pair)])


@pytest.fixture(scope="module")
def texts(families: Mapping[str, Any]) -> dict[str, tuple[ChatTemplate, TrainingTexts]]:
    """Kept over all examples, so that shapes that were seen are met again."""
    templates = {family: ChatTemplate(tokenizer) for family, tokenizer in families.items()}
    return {family: (template, TrainingTexts(template)) for family, template in templates.items()}


def outcome(make: Any) -> str:
    try:
        return str(make())
    except RowError as error:
        return f"refused: {error}"


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(messages=MESSAGES, family=st.sampled_from(FAMILIES), thinks=st.booleans())
def test_pieces_give_what_the_template_renders(
    texts: dict[str, tuple[ChatTemplate, TrainingTexts]], messages: list[dict[str, str]], family: str, thinks: bool
) -> None:
    template, made = texts[family]
    wanted = outcome(lambda: rendered_text(template, messages, (), thinks=thinks))
    assert outcome(lambda: made.text(messages, (), thinks=thinks)) == wanted


class Counted:
    """A chat template that counts how often it renders."""

    def __init__(self, template: ChatTemplate, *, is_transparent: bool = True) -> None:
        self.rendered_times = 0
        self.is_transparent = is_transparent
        self._template = template

    def __getattr__(self, name: str) -> Any:
        return getattr(self._template, name)

    def rendered(self, *arguments: Any) -> str:
        self.rendered_times += 1
        return self._template.rendered(*arguments)


def dialogue(*said: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(said)]


def test_a_shape_is_rendered_once(qwen3: Any) -> None:
    template = Counted(ChatTemplate(qwen3))
    texts = TrainingTexts(template)  # type: ignore[arg-type]
    for number in range(10):
        text = texts.text(dialogue(f"q{number}", f"a{number}"), (), thinks=False)
        assert text.endswith(
            f"\nq{number}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\na{number}<|im_end|>\n"
        )
    assert template.rendered_times == 1
    texts.text(dialogue("q", "a"), (), thinks=True)
    texts.text(dialogue("q", "a", "q", "a"), (), thinks=False)
    assert template.rendered_times == 3


REASONED = [*dialogue("q"), {"role": "assistant", "content": "a", "reasoning_content": "because"}]


@pytest.mark.parametrize("reasoned_first", [False, True])
def test_reasoning_makes_another_shape(qwen3: Any, reasoned_first: bool) -> None:
    texts = TrainingTexts(ChatTemplate(qwen3))
    wanted = [
        (REASONED, "assistant\n<think>\nbecause\n</think>\n\na<|im_end|>\n"),
        (dialogue("q", "a"), "assistant\n<think>\n\n</think>\n\na<|im_end|>\n"),
    ]
    for messages, end in reversed(wanted) if not reasoned_first else wanted:
        assert texts.text(messages, (), thinks=True).endswith(end)


def test_tools_are_rendered_though_the_shape_is_known(qwen3: Any) -> None:
    texts = TrainingTexts(ChatTemplate(qwen3))
    assert "# Tools" not in texts.text(dialogue("q", "a"), (), thinks=False)
    assert texts.text(dialogue("q", "a"), [WEATHER], thinks=False).startswith("<|im_start|>system\n# Tools\n")


@pytest.mark.parametrize(
    "messages",
    [dialogue("<tool_response>", "a"), dialogue("q", "<think>a"), [*dialogue("q", "a"), *dialogue("q", "\na")]],
)
def test_texts_that_a_template_may_treat_are_rendered(qwen3: Any, messages: list[dict[str, str]]) -> None:
    template = Counted(ChatTemplate(qwen3))
    texts = TrainingTexts(template)  # type: ignore[arg-type]
    for _ in range(3):
        texts.text(messages, (), thinks=False)
    assert template.rendered_times == 3


def test_a_template_that_is_not_known_renders_every_row(qwen3: Any) -> None:
    shouting = with_template(qwen3, qwen3.chat_template.replace("content.lstrip('\\n')", "content.upper()"))
    assert not ChatTemplate(shouting).is_transparent
    texts = TrainingTexts(ChatTemplate(shouting))
    assert texts.text(dialogue("q", "a"), (), thinks=False).endswith("A<|im_end|>\n")


def test_a_comment_does_not_make_a_template_another(families: Mapping[str, Any]) -> None:
    for tokenizer in families.values():
        assert ChatTemplate(tokenizer).is_transparent
        assert ChatTemplate(with_template(tokenizer, "{# a\ncomment #}\n" + tokenizer.chat_template)).is_transparent
