"""Rows come out with their lines, and broken files say where they are broken."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.json_rows import CHUNK_CHARS, Row, json_rows

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12), lambda inner: st.lists(inner, max_size=3)
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), max_size=8)


def rows_of(folder: Path, text: str, *, chunk_chars: int = CHUNK_CHARS) -> list[Row]:
    file = folder / "rows.json"
    file.write_bytes(text.encode())
    return list(json_rows(file, chunk_chars=chunk_chars))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@settings(deadline=None)
@given(objects=OBJECTS, indent=st.sampled_from([None, 0, 2]), chunk=st.integers(1, 40))
def test_an_array_gives_the_same_rows_whatever_the_size_of_the_pieces(
    folder: Path, objects: list[Any], indent: int | None, chunk: int
) -> None:
    text = json.dumps(objects, indent=indent, ensure_ascii=False)
    rows = rows_of(folder, text, chunk_chars=chunk)
    assert [row.value for row in rows] == objects
    assert [row.number for row in rows] == list(range(1, len(objects) + 1))
    assert not any(row.problem for row in rows)


@settings(deadline=None)
@given(objects=OBJECTS)
def test_json_lines_give_the_same_rows_with_their_lines(folder: Path, objects: list[Any]) -> None:
    rows = rows_of(folder, "".join(json.dumps(value) + "\n\n" for value in objects))
    assert [(row.value, row.line) for row in rows] == [(value, 2 * i + 1) for i, value in enumerate(objects)]


def test_an_array_element_carries_the_line_it_begins_in(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, '[\n  {\n    "a": 1\n  },\n\n  {"a": 2}, {"a": 3}\n]\n')
    assert [(row.number, row.line) for row in rows] == [(1, 2), (2, 6), (3, 6)]


def test_a_missing_comma_is_named_with_line_column_and_excerpt(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, '[\n  {"a": 1},\n  {"a" 2},\n  {"a": 3}\n]')
    assert rows[0].value == {"a": 1}
    assert rows[1].line == 3
    assert rows[1].problem == ("""broken JSON: Expecting ':' delimiter at column 8: {"a" ⟨here⟩2},""")
    assert len(rows) == 2


def test_an_unclosed_string_is_found_in_its_line(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, '[\n  {"a": "never ends}\n]')
    assert (row.line, row.problem) == (
        2,
        'broken JSON: Invalid control character at column 21: {"a": "never ends}⟨here⟩',
    )


def test_a_string_that_runs_to_the_end_of_the_file_is_found_at_its_opening_quote(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, '[\n  {"a": "never ends}')
    assert (row.line, row.problem) == (
        2,
        'broken JSON: Unterminated string starting at column 9: {"a": ⟨here⟩"never ends}',
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"a": 1} {"a": 2}]', "expected ',' or ']' after an element at column 11"),
        ('[{"a": 1},', "Expecting value"),
        ('[{"a": 1}] tail', "unexpected text after the closing ']' at column 12"),
        ('[{"a": 1},]', "Expecting value"),
    ],
)
def test_a_broken_array_ends_with_its_problem(tmp_path: Path, text: str, problem: str) -> None:
    last = rows_of(tmp_path, text)[-1]
    assert last.problem is not None
    assert problem in last.problem


def test_every_broken_line_of_json_lines_is_named(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, '{"a": 1}\nnot json\n{"a": 2}\n{"a"\n')
    assert [(row.line, row.problem is None) for row in rows] == [(1, True), (2, False), (3, True), (4, False)]


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes('{"a": "甄嬛"}\n'.encode() + b'{"a": "caf\xe9"}\n')
    rows = list(json_rows(tmp_path / "rows.json"))
    assert rows[0].value == {"a": "甄嬛"}
    assert rows[1].problem == 'not UTF-8 after \'{"a": "caf\'; save the file as UTF-8'


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(b"\xef\xbb\xbf" + b'[{"a": 1}]')
    assert [row.value for row in json_rows(tmp_path / "rows.json")] == [{"a": 1}]


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "[ \n ]"])
def test_an_empty_file_has_no_rows(tmp_path: Path, text: str) -> None:
    assert rows_of(tmp_path, text) == []
