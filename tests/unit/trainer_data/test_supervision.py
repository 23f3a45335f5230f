"""Every token of made-up conversations is learnt or not as an independent account says, in each family of models."""

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_contract import Supervise, Thinking
from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import RowProblem
from unit.trainer_data.dialogues import Dialogue, dialogues
from unit.trainer_data.oracle import EMPTY, expected_flags, learnt_texts
from unit.trainer_data.rows import rendered

FAMILIES = ("April", "Hybrid", "Instruct", "Thinking")
CHOICES = [
    (family, thinking)
    for family in FAMILIES
    for thinking in Thinking
    if (family, thinking) != ("Thinking", Thinking.STRIP)
]


def shows(dialogue: Dialogue, number: int, family: str, thinking: Thinking) -> str:
    """The reasoning that the template shows of a message: none before the last question, as it does in serving."""
    if thinking is Thinking.STRIP or family == "Instruct" or number < dialogue.last_user:
        return ""
    return str(dialogue.messages[number].get("reasoning_content", ""))


def written(message: Mapping[str, Any]) -> str:
    """What a message says and calls, as Qwen3's templates write it."""
    arguments = [
        json.dumps(call["function"]["arguments"], ensure_ascii=False) for call in message.get("tool_calls", ())
    ]
    calls = [f'<tool_call>\n{{"name": "weather", "arguments": {each}}}\n</tool_call>' for each in arguments]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])


def learnt_answer(dialogue: Dialogue, number: int, family: str, thinking: Thinking) -> str:
    """The text of a message that should be learnt."""
    reasoning = shows(dialogue, number, family, thinking)
    block = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""
    is_last = number == len(dialogue.messages) - 1
    if not block and is_last and thinking is Thinking.KEEP and family != "Instruct":
        block = EMPTY.decode()
    if family == "Thinking":
        block = block.removeprefix("<think>\n")
    return block + written(dialogue.messages[number]) + "<|im_end|>"


def refusal(dialogue: Dialogue, family: str, thinking: Thinking) -> str | None:
    """Why a conversation cannot be trained on with this model, if so."""
    reasons = [bool(message.get("reasoning_content")) for message in dialogue.messages]
    if family == "Instruct" and any(reasons) and thinking is not Thinking.STRIP:
        return "the model's chat template has no place for it; set dataset.thinking to Strip"
    if family == "Thinking" and not reasons[-1]:
        return "the model always thinks and the last answer has no reasoning"
    return None


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(dialogue=dialogues(), choice=st.sampled_from(CHOICES), supervise=st.sampled_from(Supervise))
def test_every_token_is_learnt_or_not_as_the_oracle_says(
    families: Mapping[str, Any], dialogue: Dialogue, choice: tuple[str, Thinking], supervise: Supervise
) -> None:
    family, thinking = choice
    tokenizer = families[family]
    document = rendered(tokenizer, dialogue.row, thinking=thinking, supervise=supervise)
    if said := refusal(dialogue, family, thinking):
        assert isinstance(document, RowProblem)
        assert said in document.text
        return
    assert isinstance(document, Document), document
    speaks = [number for number, message in enumerate(dialogue.messages) if message["role"] == "assistant"]
    learnt = [supervise is Supervise.ALL_TURNS or number > dialogue.last_user for number in speaks]
    rules = {"always_thinks": family == "Thinking", "keeps_empty": thinking is Thinking.KEEP}
    assert document.supervised.tolist() == expected_flags(tokenizer, document, learnt, **rules)
    answers = [learnt_answer(dialogue, n, family, thinking) for n, chosen in zip(speaks, learnt, strict=True) if chosen]
    assert learnt_texts(tokenizer, document) == [normal(answer) for answer in answers]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(dialogue=dialogues(), choice=st.sampled_from(CHOICES))
def test_the_last_answer_stands_behind_exactly_the_ids_that_a_server_sends(
    families: Mapping[str, Any], dialogue: Dialogue, choice: tuple[str, Thinking]
) -> None:
    family, thinking = choice
    tokenizer = families[family]
    document = rendered(tokenizer, dialogue.row, thinking=thinking)
    if refusal(dialogue, family, thinking):
        return
    assert isinstance(document, Document), document
    hidden = ("reasoning_content",) if thinking is Thinking.STRIP else ()
    messages = [{key: value for key, value in each.items() if key not in hidden} for each in dialogue.messages]
    last = len(messages) - 1
    thinks = thinking is Thinking.KEEP or bool(shows(dialogue, last, family, thinking))
    served = tokenizer.apply_chat_template(
        messages[:-1], tools=dialogue.tools, add_generation_prompt=True, enable_thinking=thinks, return_dict=False
    )
    answer = tokenizer(learnt_answer(dialogue, last, family, thinking), add_special_tokens=False)["input_ids"]
    assert document.input_ids.tolist() == served + answer
    assert document.supervised[len(served) - 1 :].tolist() == [0] + [1] * len(answer)


def normal(text: str) -> str:
    """As the tokenizer's normalizer leaves it: NFC, between the tokens that it never touches."""
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_itself_finds_a_mask_that_is_off_by_one(families: Mapping[str, Any], family: str) -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "so", "reasoning": "hm"}]}
    thinking = Thinking.STRIP if family == "Instruct" else Thinking.AUTO
    document = rendered(families[family], row, thinking=thinking)
    assert isinstance(document, Document)
    rules = {"always_thinks": family == "Thinking", "keeps_empty": False}
    flags = expected_flags(families[family], document, [True], **rules)
    assert flags == document.supervised.tolist()
    first = flags.index(1)
    assert {flags[first - 1], flags[-1]} == {0, 1}
    assert expected_flags(families[family], document, [False], **rules) == [0] * len(flags)
