"""Rows as a person checks them."""

from typing import Any

from finetune_trainer.data.preview import MAX_TOKENS, marked
from unit.trainer_data.rows import assistant, document, user


def test_what_is_learnt_stands_in_brackets(qwen3: Any) -> None:
    made = document(qwen3, {"messages": [user("甄"), assistant("嬛"), user("a"), assistant("b")]})
    text = marked(made.input_ids, made.supervised, qwen3)
    assert text == (
        "<|im_start|>user\n甄<|im_end|>\n<|im_start|>assistant\n⟦嬛<|im_end|>⟧\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n⟦b<|im_end|>⟧"
    )


def test_a_long_row_shows_how_it_begins_and_how_it_ends(qwen3: Any) -> None:
    made = document(qwen3, {"messages": [user("why " * 600), assistant("because " * 600)]})
    text = marked(made.input_ids, made.supervised, qwen3)
    assert text.startswith("<|im_start|>user\nwhy why")
    assert text.endswith("because because <|im_end|>⟧")
    assert f" … {len(made.input_ids) - MAX_TOKENS:,} tokens … ⟦ because" in text
