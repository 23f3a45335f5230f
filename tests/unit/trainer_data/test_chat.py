"""What is learnt of a conversation, token by token, with the real Qwen3 tokenizer."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_contract import Thinking
from finetune_trainer.data.chat import ChatRenderer, Document
from finetune_trainer.data.errors import PreparationError, RowProblem
from finetune_trainer.data.formats import Conversation, Turn

EMPTY_THINKING = "<think>\n\n</think>\n\n"


def renderer(tokenizer: Any, thinking: Thinking = Thinking.AUTO, system: str | None = None) -> ChatRenderer:
    return ChatRenderer(tokenizer, thinking=thinking, system_prompt=system)


def conversation(*turns: Turn) -> Conversation:
    return Conversation(row=1, line=1, turns=turns)


def document_of(chat: ChatRenderer, *turns: Turn) -> Document:
    (document,) = chat.documents([conversation(*turns)])
    assert isinstance(document, Document), document
    return document


def learnt(tokenizer: Any, document: Document) -> list[str]:
    """The supervised stretches as text."""
    edges = np.flatnonzero(np.diff(document.supervised, prepend=0, append=0)).reshape(-1, 2)
    return [tokenizer.decode(document.input_ids[begin:end].tolist()) for begin, end in edges]


def context(tokenizer: Any, document: Document) -> str:
    """Everything before the last supervised stretch."""
    last_begin = np.flatnonzero(np.diff(document.supervised, prepend=0) == 1)[-1]
    return str(tokenizer.decode(document.input_ids[:last_begin].tolist()))


def test_each_token_of_a_short_row_is_learnt_or_not_as_it_should_be(qwen3: Any) -> None:
    document = document_of(renderer(qwen3), Turn("user", "Hi"), Turn("assistant", "Ho!"))
    tokens = qwen3.convert_ids_to_tokens(document.input_ids.tolist())
    assert list(zip(tokens, document.supervised.tolist(), strict=True)) == [
        ("<|im_start|>", 0),
        ("user", 0),
        ("Ċ", 0),
        ("Hi", 0),
        ("<|im_end|>", 0),
        ("Ċ", 0),
        ("<|im_start|>", 0),
        ("assistant", 0),
        ("Ċ", 0),
        ("<think>", 0),
        ("ĊĊ", 0),
        ("</think>", 0),
        ("ĊĊ", 0),
        ("Ho", 1),
        ("!", 1),
        ("<|im_end|>", 1),
    ]


def test_every_answer_is_learnt_and_nothing_else(qwen3: Any) -> None:
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"))
    document = document_of(renderer(qwen3, system="Be 甄嬛"), *turns)
    assert learnt(qwen3, document) == ["b<|im_end|>", "d<|im_end|>"]
    assert context(qwen3, document).startswith("<|im_start|>system\nBe 甄嬛<|im_end|>\n<|im_start|>user\na<|im_end|>\n")


def test_a_row_keeps_its_own_system_message(qwen3: Any) -> None:
    turns = (Turn("system", "mine"), Turn("user", "a"), Turn("assistant", "b"))
    assert "default" not in context(qwen3, document_of(renderer(qwen3, system="default"), *turns))


REASONED = (Turn("user", "q"), Turn("assistant", "a", "because"))
PLAIN = (Turn("user", "q"), Turn("assistant", "a"))


@pytest.mark.parametrize(
    ("thinking", "turns", "answer", "prompt_end"),
    [
        (Thinking.AUTO, REASONED, "<think>\nbecause\n</think>\n\na<|im_end|>", "assistant\n"),
        (Thinking.KEEP, REASONED, "<think>\nbecause\n</think>\n\na<|im_end|>", "assistant\n"),
        (Thinking.STRIP, REASONED, "a<|im_end|>", "assistant\n" + EMPTY_THINKING),
        (Thinking.AUTO, PLAIN, "a<|im_end|>", "assistant\n" + EMPTY_THINKING),
        (Thinking.KEEP, PLAIN, EMPTY_THINKING + "a<|im_end|>", "assistant\n"),
        (Thinking.STRIP, PLAIN, "a<|im_end|>", "assistant\n" + EMPTY_THINKING),
    ],
)
def test_think_blocks_follow_the_policy(
    qwen3: Any, thinking: Thinking, turns: tuple[Turn, ...], answer: str, prompt_end: str
) -> None:
    document = document_of(renderer(qwen3, thinking), *turns)
    assert learnt(qwen3, document) == [answer]
    assert context(qwen3, document).endswith(prompt_end)


def test_think_blocks_with_content_are_counted_even_if_stripped(qwen3: Any) -> None:
    assert document_of(renderer(qwen3, Thinking.STRIP), *REASONED).think_blocks == 1
    assert document_of(renderer(qwen3, Thinking.KEEP), *PLAIN).think_blocks == 0


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=20).filter(
    str.strip
)
ANSWERS = st.builds(Turn, st.just("assistant"), TEXTS.map(str.lstrip), st.one_of(st.just(""), TEXTS.map(str.strip)))
DIALOGUES = st.lists(st.tuples(st.builds(Turn, st.just("user"), TEXTS), ANSWERS), min_size=1, max_size=3).map(
    lambda pairs: [turn for pair in pairs for turn in pair]
)


@settings(deadline=None, max_examples=150)
@given(turns=DIALOGUES, thinking=st.sampled_from(Thinking), use_system=st.booleans())
def test_the_last_answer_is_learnt_behind_exactly_the_tokens_that_serving_sends(
    qwen3: Any, turns: list[Turn], thinking: Thinking, use_system: bool
) -> None:
    chat = renderer(qwen3, thinking, "Be kind" if use_system else None)
    document = document_of(chat, *turns)
    messages = chat.messages(conversation(*turns))
    thinks = thinking is Thinking.KEEP or (bool(turns[-1].reasoning) and thinking is Thinking.AUTO)
    served = qwen3.apply_chat_template(
        messages[:-1], add_generation_prompt=True, enable_thinking=thinks, return_dict=False
    )
    assert document.input_ids[: len(served)].tolist() == served
    assert document.supervised[len(served) :].all()
    assert not document.supervised[len(served) - 1]


@settings(deadline=None, max_examples=100)
@given(turns=DIALOGUES, thinking=st.sampled_from(Thinking))
def test_there_are_as_many_learnt_stretches_as_answers_and_each_ends_with_the_end_token(
    qwen3: Any, turns: list[Turn], thinking: Thinking
) -> None:
    stretches = learnt(qwen3, document_of(renderer(qwen3, thinking), *turns))
    assert len(stretches) == len(turns) // 2
    assert all(stretch.endswith("<|im_end|>") and stretch.count("<|im_end|>") == 1 for stretch in stretches)


def test_a_batch_renders_as_its_rows_do_alone(qwen3: Any) -> None:
    chat = renderer(qwen3)
    batch = [conversation(Turn("user", "q" * n), Turn("assistant", "a" * n)) for n in range(1, 5)]
    together = chat.documents(batch)
    for one, whole in zip(batch, together, strict=True):
        (alone,) = chat.documents([one])
        assert isinstance(whole, Document)
        assert isinstance(alone, Document)
        assert whole.input_ids.tolist() == alone.input_ids.tolist()


def test_control_tokens_are_those_of_the_tokenizer(qwen3: Any) -> None:
    tokens = renderer(qwen3).control_tokens
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= tokens
    assert "<think>" not in tokens


class Retemplated:
    """The real tokenizer with another chat template."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.chat_template = template
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._tokenizer(*arguments, **options)

    def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
        return self._tokenizer.apply_chat_template(*arguments, chat_template=self.chat_template, **options)


PLAIN_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_template_without_thinking_learns_the_whole_answer(qwen3: Any) -> None:
    tokenizer = Retemplated(qwen3, PLAIN_CHATML)
    assert learnt(qwen3, document_of(renderer(tokenizer), *PLAIN)) == ["a<|im_end|>"]


def test_reasoning_that_the_template_would_lose_is_refused(qwen3: Any) -> None:
    (problem,) = renderer(Retemplated(qwen3, PLAIN_CHATML)).documents([conversation(*REASONED)])
    assert isinstance(problem, RowProblem)
    assert "no place for it; set dataset.thinking to Strip" in problem.text


def test_a_model_that_always_thinks_refuses_rows_without_reasoning(qwen3: Any) -> None:
    opening = "{{- '<|im_start|>assistant\\n' }}"
    tokenizer = Retemplated(qwen3, qwen3.chat_template.replace(opening, "{{- '<|im_start|>assistant\\n<think>\\n' }}"))
    (problem,) = renderer(tokenizer).documents([conversation(*PLAIN)])
    assert isinstance(problem, RowProblem)
    assert "add reasoning_content, or use a model that can answer without thinking" in problem.text
    assert learnt(qwen3, document_of(renderer(tokenizer), *REASONED)) == ["because\n</think>\n\na<|im_end|>"]


def test_a_tokenizer_without_a_chat_template_is_refused_with_the_remedy(qwen3: Any) -> None:
    with pytest.raises(PreparationError, match=r"use the chat model .* or add Qwen3's chat_template\.jinja") as caught:
        renderer(Retemplated(qwen3, ""))
    assert caught.value.failure.reason == "NoChatTemplate"


def test_a_template_of_another_family_is_refused(qwen3: Any) -> None:
    with pytest.raises(PreparationError, match="does not mark answers with") as caught:
        renderer(Retemplated(qwen3, "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"))
    assert caught.value.failure.reason == "UnknownChatTemplate"
