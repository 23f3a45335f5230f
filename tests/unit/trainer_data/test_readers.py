"""Whatever the kind of a file and wherever it is cut, its rows come out once, in order, with their lines."""

import csv
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.readers import BrokenFileError, Piece, csv_table, json_array, json_lines, reader_of
from finetune_trainer.data.row import Row

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12), lambda inner: st.lists(inner, max_size=3)
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), max_size=8)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=8)
BOM = b"\xef\xbb\xbf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


def written(folder: Path, data: str | bytes, name: str = "rows.json") -> Path:
    file = folder / name
    file.write_bytes(data.encode("utf-8", errors="surrogatepass") if isinstance(data, str) else data)
    return file


def cut(file: Path, *, size: int = 1 << 20) -> list[Piece]:
    return list(reader_of(file, file.name).pieces(file, size=size))


def rows_of(file: Path, pieces: list[Piece]) -> list[Row]:
    """The rows of the pieces, numbered through the file."""
    reader = reader_of(file, file.name)
    found: list[Row] = []
    for piece in pieces:
        rows = list(reader.rows(file, piece))
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        found += [Row(len(found) + row.number, row.line, row.value, row.problem) for row in rows]
    return found


def read(file: Path) -> Iterator[tuple[int | None, Any]]:
    for row in rows_of(file, cut(file)):
        assert row.problem is None
        yield row.line, row.value


def assert_cut_anywhere(file: Path, size: int) -> list[Row]:
    """The rows of a file in small pieces, which lie side by side; going on behind any of them gives the rest."""
    pieces = cut(file, size=size)
    for one, other in pairwise(pieces):
        assert (one.end, one.next_line) == (other.begin, other.line)
        assert one.broken is None
    reader = reader_of(file, file.name)
    for number, piece in enumerate(pieces):
        assert list(reader.pieces(file, size=size, after=piece)) == pieces[number + 1 :]
    return rows_of(file, pieces)


@settings(deadline=None, max_examples=60)
@given(
    objects=OBJECTS,
    indent=st.sampled_from([None, 0, 2]),
    size=st.integers(1, 60),
    chunk=st.integers(1, 40),
    mark=st.sampled_from([b"", BOM]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_an_array_may_be_cut_anywhere(
    folder: Path, objects: list[Any], indent: int | None, size: int, chunk: int, mark: bytes, end: str
) -> None:
    text = json.dumps(objects, indent=indent, ensure_ascii=False).replace("\n", end)
    file = written(folder, mark + text.encode("utf-8", errors="surrogatepass"))
    rows = assert_cut_anywhere(file, size)
    whole = rows_of(file, cut(file))
    assert rows == whole
    assert [row.value for row in rows if not row.problem] == [value for value in objects if is_utf8(value)]
    assert list(json_array.pieces(file, size=size, chunk_bytes=chunk)) == cut(file, size=size)


def is_utf8(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@settings(deadline=None, max_examples=60)
@given(objects=OBJECTS, size=st.integers(1, 60), mark=st.sampled_from([b"", BOM]), end=st.sampled_from(["\n", "\r\n"]))
def test_json_lines_may_be_cut_anywhere(folder: Path, objects: list[Any], size: int, mark: bytes, end: str) -> None:
    file = written(folder, mark + "".join(json.dumps(value) + end + end for value in objects).encode())
    rows = assert_cut_anywhere(file, size)
    assert [(row.value, row.line) for row in rows] == [(value, 2 * i + 1) for i, value in enumerate(objects)]


@settings(deadline=None, max_examples=60)
@given(
    cells=st.lists(st.tuples(CELLS, CELLS), max_size=8),
    size=st.integers(1, 60),
    mark=st.sampled_from([b"", BOM]),
    separator=st.sampled_from(csv_table.SEPARATORS),
)
def test_csv_may_be_cut_anywhere(
    folder: Path, cells: list[tuple[str, str]], size: int, mark: bytes, separator: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("instruction", "antwört"), *cells])
    file = written(folder, mark + text.getvalue().encode(), "rows.csv")
    rows = assert_cut_anywhere(file, size)
    assert [row.value for row in rows] == [{"instruction": one, "antwört": other} for one, other in cells]


@pytest.mark.parametrize("size", [1, 300, 10_000])
@pytest.mark.parametrize("group", [1, 7, 100])
def test_parquet_may_be_cut_anywhere(tmp_path: Path, size: int, group: int) -> None:
    values = [{"instruction": f"q{n}", "messages": [{"role": "user", "content": "甄" * n}]} for n in range(40)]
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(values), file, row_group_size=group)
    rows = assert_cut_anywhere(file, size)
    assert [(row.value, row.line) for row in rows] == [(value, None) for value in values]


def test_an_element_and_a_line_carry_the_line_they_begin_in(tmp_path: Path) -> None:
    array = written(tmp_path, '[\n  {\n    "a": 1\n  },\n\n  {"a": 2}, {"a": 3}\n]\n', "a.json")
    assert [line for line, _ in read(array)] == [2, 6, 6]
    lines = written(tmp_path, '\n{"a": 1}\n\n  \n{"a": 2}', "b.jsonl")
    assert [line for line, _ in read(lines)] == [2, 5]
    table = written(tmp_path, 'a,b\n1,"x\ny"\n\n2,z\n', "c.csv")
    assert list(read(table)) == [(2, {"a": "1", "b": "x\ny"}), (5, {"a": "2", "b": "z"})]


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    ("text", "rows", "line", "said"),
    [
        ('[\n {"a": 1},\n {"a" 2}]', 1, 3, """broken JSON: Expecting ':' delimiter at column 7: {"a" ⟨here⟩2}]"""),
        ('[\n  {"a": "open}\n]', 0, 2, "Invalid control character at column 15: "),
        ('[\n  {"a": "open}', 0, 2, 'Unterminated string starting at column 9: {"a": ⟨here⟩"open}'),
        ('[{"a": 1} {"a": 2}]', 1, 1, "expected ',' or ']' after an element at column 11"),
        ('[{"a": 1},', 1, 1, "Expecting value at column 11"),
        ('[{"a": 1},]', 1, 1, "Expecting value at column 11"),
        ('[{"a": 1}\n] tail', 1, 2, "unexpected text after the closing ']' at column 3"),
        ("[" + "[" * 100_000, 0, 1, "nested more deeply than Python can read"),
        ("[" + "1" * 5000 + "]", 0, 1, "Exceeds the limit (4300 digits) for integer string conversion"),
    ],
)
def test_a_broken_array_ends_with_what_is_wrong(
    tmp_path: Path, text: str, rows: int, line: int, said: str, size: int
) -> None:
    file = written(tmp_path, text)
    pieces = cut(file, size=size)
    broken = pieces[-1].broken
    assert broken is not None
    assert broken.line == line
    assert said in broken.text
    assert len(rows_of(file, pieces)) == rows
    for piece in pieces[:-1]:
        assert list(json_array.pieces(file, size=size, after=piece))[-1].broken == broken


def test_every_broken_line_of_json_lines_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    deep = "[" * 100_000
    file = written(tmp_path, f'{{"a": 1}}\nnot json\n{{"a": 2}}\n{{"a"\n{{"a": 3}} more\n{deep}\n')
    rows = rows_of(file, cut(file))
    assert [row.line for row in rows if not row.problem] == [1, 3]
    assert [row.problem for row in rows if row.problem] == [
        "broken JSON: Expecting value at column 1: ⟨here⟩not json",
        """broken JSON: Expecting ':' delimiter at column 5: {"a"⟨here⟩""",
        """broken JSON: Extra data at column 10: {"a": 3} ⟨here⟩more""",
        f"broken JSON: nested more deeply than Python can read at column 1: ⟨here⟩{deep[:30]}",
    ]


def test_an_object_over_several_lines_is_told_from_broken_lines(tmp_path: Path) -> None:
    (piece,) = cut(written(tmp_path, '\n{\n "data": [\n  {"a": 1}\n ]\n}\n'))
    assert piece.broken is not None
    assert piece.broken.line == 2
    assert "expected an array of objects, or one whole object in every line" in piece.broken.text


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    file = written(tmp_path, '{"a": "' + "x" * (1 << 18))
    (piece,) = json_lines.pieces(file, size=100, row_bytes=1 << 16)
    assert piece.broken is not None
    assert "a line of more than 65,536 bytes" in piece.broken.text


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_bytes_that_are_not_utf8_are_named_in_their_row_alone(tmp_path: Path, name: str) -> None:
    whole = {
        "rows.jsonl": '{"a": "甄嬛"}\n{"a": "caf\udce9"}\n{"a": "ok"}\n',
        "rows.json": '[{"a": "甄嬛"},\n{"a": "caf\udce9"},\n{"a": "ok"}]',
        "rows.csv": "a\n甄嬛\ncaf\udce9\nok\n",
    }[name]
    file = written(tmp_path, whole.encode("utf-8", errors="surrogateescape"), name)
    first, bad, last = rows_of(file, cut(file))
    assert (first.value, last.value) == ({"a": "甄嬛"}, {"a": "ok"})
    assert bad.problem is not None
    assert bad.problem.startswith("not UTF-8 after ")
    assert "caf" in bad.problem
    assert bad.line == (3 if name == "rows.csv" else 2)


def test_a_megabyte_in_one_row_is_a_row(tmp_path: Path) -> None:
    value = {"a": "甄" * 350_000}
    text = json.dumps(value, ensure_ascii=False)
    table = written(tmp_path, "a\n" + value["a"] + "\n", "c.csv")
    for file in (written(tmp_path, f"[{text},\n{text}]", "a.json"), written(tmp_path, f"{text}\n{text}\n", "b.jsonl")):
        assert [row for _, row in read(file)] == [value, value]
    assert [row for _, row in read(table)] == [value]


def test_csv_cells_stay_text(tmp_path: Path) -> None:
    file = written(tmp_path, "a,b\nNA,1.0\nnull,\n", "rows.csv")
    assert [row for _, row in read(file)] == [{"a": "NA", "b": "1.0"}, {"a": "null", "b": ""}]


def test_a_csv_row_of_other_columns_is_one_bad_row(tmp_path: Path) -> None:
    rows = rows_of(file := written(tmp_path, "a,b\n1\n2,3\n", "rows.csv"), cut(file))
    assert [row.problem for row in rows] == ["has 1 cells, and the header 2: a, b", None]


@pytest.mark.parametrize("text", ['a,b\n1,2\n3,"open\n4,5\n', 'a,b\n1,2\n3,"x"y\n'])
def test_a_broken_quote_ends_a_csv(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text, "rows.csv")
    pieces = cut(file)
    assert pieces[-1].broken is not None
    assert pieces[-1].broken.line == 3
    assert pieces[-1].broken.text.startswith("broken CSV: ")
    assert [row.value for row in rows_of(file, pieces)] == [{"a": "1", "b": "2"}]


def parquet(folder: Path) -> Path:
    file = folder / "rows.parquet"
    table = pa.table({"a": [f"text {n}" * 50 for n in range(2000)]})
    pq.write_table(table, file, row_group_size=500, use_dictionary=False, compression="none", write_page_checksum=True)
    return file


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_parquet_that_was_cut_off_is_refused(tmp_path: Path, keep: float) -> None:
    file = parquet(tmp_path)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(PreparationError, match=r"rows\.parquet cannot be read as Parquet: .* cut off") as caught:
        cut(file)
    assert caught.value.failure.reason == "BadParquet"


def test_a_parquet_that_is_damaged_inside_is_told_where_it_breaks(tmp_path: Path) -> None:
    file = parquet(tmp_path)
    data = bytearray(file.read_bytes())
    begin = pq.ParquetFile(file).metadata.row_group(2).column(0).data_page_offset
    data[begin : begin + 40] = b"\xff" * 40
    file.write_bytes(bytes(data))
    pieces = cut(file)
    with pytest.raises(BrokenFileError, match="broken Parquet: "):
        rows_of(file, pieces)


@pytest.mark.parametrize(
    ("name", "data", "reason", "said"),
    [
        ("rows.txt", b"hello world", "UnknownFile", "rows.txt begins with 'hello world'; expected a JSON array, JSON"),
        ("rows.json", "[]".encode("utf-16"), "BadEncoding", "rows.json is UTF-16 text; save it as UTF-8"),
    ],
)
def test_a_file_of_no_kind_is_refused(tmp_path: Path, name: str, data: bytes, reason: str, said: str) -> None:
    with pytest.raises(PreparationError, match=said) as caught:
        cut(written(tmp_path, data, name))
    assert caught.value.failure.reason == reason


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "[ \n ]"])
def test_an_empty_file_has_no_rows(tmp_path: Path, text: str) -> None:
    assert list(read(written(tmp_path, text))) == []
