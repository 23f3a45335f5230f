"""What both kinds of JSON files share: words for what is broken in them."""

import json
from typing import Any

from finetune_trainer.data.row import printable

DECODER = json.JSONDecoder()
TOO_DEEP = "nested more deeply than Python can read"


def decoded(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at `at`, and where it ends. Raises: JSONDecodeError for whatever is wrong with it."""
    try:
        return DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError(TOO_DEEP, text, at) from None
    except ValueError as error:  # a number of more digits than Python converts
        raise json.JSONDecodeError(str(error).partition(";")[0], text, at) from None


def broken_words(message: str, text: str, position: int, *, column: int) -> str:
    """What is wrong, in which column, and the text around it."""
    before = text[max(0, position - 30) : position].rpartition("\n")[2].lstrip()
    after = text[position : position + 30].partition("\n")[0]
    message = message.removesuffix(" at")  # some of json's messages bring it
    return f"broken JSON: {message} at column {column}: {printable(before)}⟨here⟩{printable(after)}"
