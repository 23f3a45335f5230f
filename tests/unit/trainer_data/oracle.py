"""An account of what is learnt that owes nothing to the code under test: it reads the text that the ids stand for.

Ids become bytes, bytes are parsed by a state machine that knows ChatML alone, and every token is placed in what it
found. A token is learnt if all its bytes lie in an answer, behind what a server puts before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from finetune_trainer.data.document import Document

EMPTY = b"<think>\n\n</think>\n\n"
START, END = b"<|im_start|>", b"<|im_end|>"


@dataclass(frozen=True)
class Span:
    """A stretch of bytes that is learnt or not."""

    begin: int
    end: int


def token_bytes(tokenizer: Any, ids: Sequence[int]) -> list[bytes]:
    """What each token stands for."""
    added = {number: token.content.encode() for number, token in tokenizer.added_tokens_decoder.items()}
    letters = byte_of_letter()
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    return [
        added[number] if number in added else bytes(letters[letter] for letter in piece)
        for number, piece in zip(ids, pieces, strict=True)
    ]


@cache
def byte_of_letter() -> dict[str, int]:
    """Byte-level BPE spells bytes as letters: printable ones as themselves, the others from U+0100 on (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def turns(text: bytes) -> list[tuple[str, Span]]:
    """Role and body of each turn; the body of a turn that is cut off ends with the text."""
    found: list[tuple[str, Span]] = []
    state: Literal["outside", "role", "body"] = "outside"
    at = begin = 0
    role = ""
    while at < len(text):
        if state == "outside" and text.startswith(START, at):
            at += len(START)
            state, begin = "role", at
        elif state == "outside":
            assert text[at : at + 1] == b"\n", f"{text[at : at + 20]!r} stands between turns"
            at += 1
        elif state == "role" and text[at : at + 1] == b"\n":
            role = text[begin:at].decode()
            at += 1
            state, begin = "body", at
        elif state == "body" and text.startswith(END, at):
            found.append((role, Span(begin, at)))
            at += len(END)
            state = "outside"
        else:
            at += 1
    assert state == "outside", "a document ends with an answer's end"
    return found


def learnt_spans(text: bytes, learnt: Sequence[bool], *, always_thinks: bool, keeps_empty: bool) -> list[Span]:
    """What should be learnt: `learnt` says it of each answer that the text holds."""
    spans = []
    bodies = [span for role, span in turns(text) if role == "assistant"]
    assert len(bodies) <= len(learnt)
    for body, is_learnt in zip(bodies, learnt, strict=False):
        given = 0
        if text.startswith(EMPTY, body.begin) and not keeps_empty:
            given = len(EMPTY)
        elif always_thinks and text.startswith(b"<think>\n", body.begin):
            given = len(b"<think>\n")
        if is_learnt:
            spans.append(Span(body.begin + given, body.end + len(END)))
    return spans


def expected_flags(tokenizer: Any, document: Document, learnt: Sequence[bool], **rules: bool) -> list[int]:
    """The mask that the document should have; no token may stand with one foot in what is learnt."""
    pieces = token_bytes(tokenizer, document.input_ids.tolist())
    spans = learnt_spans(b"".join(pieces), learnt, **rules)
    flags, at = [], 0
    for piece in pieces:
        begin, end = at, at + len(piece)
        at = end
        inside = any(span.begin <= begin and end <= span.end for span in spans)
        touches = any(begin < span.end and span.begin < end for span in spans)
        assert inside == touches, f"{piece!r} is half learnt"
        flags.append(int(inside))
    return flags


def learnt_texts(tokenizer: Any, document: Document) -> list[str]:
    """The learnt stretches as text."""
    pieces = token_bytes(tokenizer, document.input_ids.tolist())
    stretches: list[bytes] = []
    before = 0
    for piece, flag in zip(pieces, document.supervised.tolist(), strict=True):
        if flag and not before:
            stretches.append(b"")
        if flag:
            stretches[-1] += piece
        before = flag
    return [stretch.decode() for stretch in stretches]
