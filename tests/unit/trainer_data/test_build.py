"""Mixes and their weights, held-out rows, bad rows, and what the report says of all that."""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_contract import DatasetConfig, DatasetReport, ExitCode, PrepareOutcome
from finetune_contract.reports import TERMINATION_MESSAGE_BYTES, LengthBin, SourceReport
from finetune_trainer.data.assembly import Sizes, write_split
from finetune_trainer.data.build import build_tokens
from finetune_trainer.data.cache import Split, TokenCache, open_tokens
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.selection import distinct, mixed, smallest
from finetune_trainer.data.shards import ShardMaker, made_shards
from finetune_trainer.data.splitting import split_documents
from finetune_trainer.data.spool import Spool
from unit.planning.runs import TINY

Rows = Sequence[dict[str, Any]]


def rows_of(name: str, count: int) -> list[dict[str, Any]]:
    return [{"instruction": f"{name} {n}", "output": f"answer {n}"} for n in range(count)]


def mixed_files(
    folder: Path, mix: Sequence[tuple[Rows, float]], *, own: Rows | None = None, **fields: Any
) -> tuple[list[InputFile], DatasetConfig]:
    """Sources with weights, and the validation's own rows if there are some."""
    files = []
    for number, rows in enumerate([*(rows for rows, _ in mix), *([own] if own else [])]):
        file = folder / f"{number}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(InputFile(file, file.name, number))
    place = {"source": {"type": "Volume", "path": "x"}}
    defaults = {"max_tokens": 128, "seed": 7, "packing": False}
    if own:
        fields["validation"] = {"source": place}
    sources = [place | {"weight": weight} for _, weight in mix]
    return files, DatasetConfig.model_validate({**defaults, "sources": sources, **fields})


def built(
    folder: Path, tokenizer: Any, mix: Sequence[tuple[Rows, float]], *, own: Rows | None = None, **fields: Any
) -> tuple[TokenCache, DatasetReport]:
    """The token cache of such files."""
    files, config = mixed_files(folder, mix, own=own, **fields)
    tokens_dir, report = build_tokens(files, config, tokenizer, tokenizer_digest="t", cache_dir=folder / "cache")
    return open_tokens(tokens_dir), report


def instructions(split: Split | None, tokenizer: Any) -> Counter[str]:
    """How often each row is in a split."""
    assert split is not None
    spans = zip(split.documents[:-1], split.documents[1:], strict=True)
    texts = (tokenizer.decode(split.input_ids[begin:end].tolist()) for begin, end in spans)
    return Counter(text.split("user\n")[1].split("<|im_end|>")[0] for text in texts)


def test_a_weight_is_how_often_a_row_stands_in_an_epoch(tmp_path: Path, tiny_tokenizer: Any) -> None:
    mix = [(rows_of("a", 40), 1), (rows_of("b", 40), 2.25), (rows_of("c", 40), 0.5)]
    cache, report = built(tmp_path, tiny_tokenizer, mix)
    found = instructions(cache.training, tiny_tokenizer)
    copies = {name: Counter(found[f"{name} {n}"] for n in range(40)) for name in "abc"}
    assert copies == {"a": {1: 40}, "b": {2: 30, 3: 10}, "c": {0: 20, 1: 20}}
    assert report.rows == 40 + 90 + 20 == cache.training.num_documents
    assert [source.rows for source in report.sources] == [40, 40, 40]
    (tmp_path / "other").mkdir()
    other, _ = built(tmp_path / "other", tiny_tokenizer, mix, seed=8)
    assert instructions(other.training, tiny_tokenizer) != found


def test_no_row_is_on_both_sides_of_a_fraction_even_if_it_is_there_twice(tmp_path: Path, tiny_tokenizer: Any) -> None:
    rows = rows_of("a", 60) * 2
    cache, report = built(tmp_path, tiny_tokenizer, [(rows, 1)], validation={"fraction": 0.25})
    training, validation = (instructions(each, tiny_tokenizer) for each in (cache.training, cache.validation))
    assert not training.keys() & validation.keys()
    assert (training.total(), validation.total()) == (report.rows, report.validation_rows) == (90, 30)
    assert report.duplicate_rows == 60


def test_a_row_that_is_added_moves_hardly_any_other_to_the_other_side(tmp_path: Path, tiny_tokenizer: Any) -> None:
    held_out = []
    for count in (200, 201):
        (tmp_path / str(count)).mkdir()
        mix = [(rows_of("a", count), 1)]
        cache, _ = built(tmp_path / str(count), tiny_tokenizer, mix, validation={"fraction": 0.1})
        held_out.append(instructions(cache.validation, tiny_tokenizer).keys())
    assert len(held_out[0] ^ held_out[1]) <= 2


def test_rows_of_the_validations_own_source_are_left_out_of_training(tmp_path: Path, tiny_tokenizer: Any) -> None:
    cache, report = built(tmp_path, tiny_tokenizer, [(rows_of("a", 30), 2)], own=[*rows_of("a", 5), *rows_of("v", 4)])
    training, validation = (instructions(each, tiny_tokenizer) for each in (cache.training, cache.validation))
    assert set(validation) == {f"a {n}" for n in range(5)} | {f"v {n}" for n in range(4)}
    assert training == {f"a {n}": 2 for n in range(5, 30)}
    assert (report.validation_rows, report.left_out_duplicates, report.rows) == (9, 5, 50)


@pytest.mark.parametrize(("own", "said"), [(rows_of("a", 30), "every training row equals one that is held out")])
def test_nothing_left_to_train_on_is_refused(tmp_path: Path, tiny_tokenizer: Any, own: Rows, said: str) -> None:
    with pytest.raises(PreparationError, match=said):
        built(tmp_path, tiny_tokenizer, [(rows_of("a", 30), 1)], own=own)


BAD = [{"instruction": "a"}, {"instruction": "b", "output": ""}]


def test_bad_rows_of_all_files_are_counted_and_named(tmp_path: Path, tiny_tokenizer: Any) -> None:
    mix = [([*rows_of("a", 3), *BAD], 1), ([*rows_of("b", 1), *BAD], 1)]
    with pytest.raises(PreparationError) as caught:
        built(tmp_path, tiny_tokenizer, mix)
    failure = caught.value.failure
    assert failure.reason == "BadRows"
    assert failure.message.startswith("dataset: 4 rows of 2 files cannot be trained on: 0.jsonl line 4, row 4: ")
    assert [detail.partition(": ")[0] for detail in failure.details] == [
        "0.jsonl line 4, row 4", "0.jsonl line 5, row 5", "1.jsonl line 2, row 2", "1.jsonl line 3, row 3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "limit", "passes"), [(3, 2, True), (3, 1, False), (298, None, True), (98, None, False)]
)
def test_bad_rows_are_skipped_up_to_the_limit(
    tmp_path: Path, tiny_tokenizer: Any, rows: int, limit: int | None, passes: bool
) -> None:
    policy = {"policy": "Skip", "limit": limit}
    mix = [([*rows_of("a", rows), *BAD], 1)]
    if passes:
        _, report = built(tmp_path, tiny_tokenizer, mix, bad_rows=policy)
        assert (report.skipped_rows, report.rows) == (2, rows)
        (details,) = (tmp_path / "cache" / "tokens").glob("*/details.json")
        assert len(json.loads(details.read_text())["bad_rows"]) == 2
    else:
        with pytest.raises(PreparationError, match=r"dataset\.badRows\.limit: 1 may be left out, and 2 would be"):
            built(tmp_path, tiny_tokenizer, mix, bad_rows=policy)


def test_no_policy_passes_over_what_a_broken_file_hides(tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = tmp_path / "rows.json"
    file.write_text('[{"instruction": "a", "output": "b"}, {"instruction": "c"')
    config = DatasetConfig.model_validate(
        {
            "sources": [{"source": {"type": "Volume", "path": "x"}}],
            "max_tokens": 64,
            "seed": 1,
            "bad_rows": {"policy": "Skip", "limit": 100},
        }
    )
    with pytest.raises(PreparationError, match=r"rows\.json breaks off in line 1, behind row 1: ") as caught:
        build_tokens([InputFile(file, file.name, 0)], config, tiny_tokenizer, tokenizer_digest="t", cache_dir=tmp_path)
    assert caught.value.failure.reason == "BrokenFile"
    assert list((tmp_path / "tokens").glob(".*.work")) == []


def test_files_of_every_kind_give_the_same_rows(tmp_path: Path, tiny_tokenizer: Any) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = rows_of("a", 20)
    lines = "".join(json.dumps(row) + "\r\n" for row in rows).encode()
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl").write_bytes(lines)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "d.csv").write_text(
        "instruction,output\n" + "".join(f"{r['instruction']},{r['output']}\n" for r in rows)
    )
    pq.write_table(pa.Table.from_pylist([row | {"score": float("nan")} for row in rows]), tmp_path / "e.parquet")
    files = [InputFile(path, path.name, 0) for path in sorted(tmp_path.iterdir()) if path.is_file()]
    place = {"source": {"type": "Volume", "path": "x"}}
    config = DatasetConfig.model_validate({"sources": [place], "max_tokens": 64, "seed": 1, "packing": False})
    folder, report = build_tokens(files, config, tiny_tokenizer, tokenizer_digest="t", cache_dir=tmp_path / "cache")
    found = instructions(open_tokens(folder).training, tiny_tokenizer)
    assert found == {f"a {n}": 5 for n in range(20)}
    assert report.duplicate_rows == 80


def test_a_packed_file_that_was_cut_off_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"instruction": "a", "output": "b"}\n' * 1000)[:-20])
    place = {"source": {"type": "Volume", "path": "x"}}
    config = DatasetConfig.model_validate({"sources": [place], "max_tokens": 64, "seed": 1})
    with pytest.raises(PreparationError, match=r"rows\.jsonl\.gz cannot be unpacked: "):
        build_tokens([InputFile(file, file.name, 0)], config, tiny_tokenizer, tokenizer_digest="t", cache_dir=tmp_path)


def test_equal_ids_are_counted(tmp_path: Path, tiny_tokenizer: Any) -> None:
    rows = [row | {"id": number // 2} for number, row in enumerate(rows_of("a", 10))]
    _, report = built(tmp_path, tiny_tokenizer, [(rows, 1)])
    assert (report.duplicate_ids, report.duplicate_rows) == (5, 0)


def test_a_value_that_is_not_a_number_is_no_value(tmp_path: Path, tiny_tokenizer: Any) -> None:
    cache, _ = built(tmp_path, tiny_tokenizer, [([row | {"input": float("nan")} for row in rows_of("a", 3)], 1)])
    assert set(instructions(cache.training, tiny_tokenizer)) == {"a 0", "a 1", "a 2"}


@pytest.mark.parametrize("packing", [True, False])
def test_windows_of_any_size_lose_and_double_nothing_and_mix_the_sources(
    tmp_path: Path, tiny_tokenizer: Any, packing: bool
) -> None:
    files, config = mixed_files(tmp_path, [(rows_of("a", 60), 1), (rows_of("b", 30), 2)], packing=packing)
    spool = Spool(tmp_path / "shards")
    shards = made_shards(ShardMaker(files, config, Renderer(tiny_tokenizer, config), spool), spool, workers=2)
    splitting = split_documents(shards, files, config, spool)
    sizes = Sizes(window_tokens=600, sequences_per_window=1, tokens_at_once=70)
    write_split(tmp_path / "split", spool, splitting.training(), splitting.copies, config, workers=2, sizes=sizes)
    split = Split.opened(tmp_path / "split")
    assert instructions(split, tiny_tokenizer) == ({f"a {n}": 1 for n in range(60)} | {f"b {n}": 2 for n in range(30)})
    offsets = [split.document_offsets(sequence) for sequence in range(split.num_sequences)]
    counts = [split.supervised[each[0] : each[-1]].sum() for each in offsets]
    assert split.supervised_counts.tolist() == counts
    assert split.sequences[-1] == split.num_documents == 120
    if packing:
        assert split.documents[-1] / (split.num_sequences * config.max_tokens) > 0.8
        first = tiny_tokenizer.decode(split.input_ids[: split.documents[20]].tolist())
        assert "user\na " in first
        assert "user\nb " in first


@pytest.mark.parametrize("most", [4, 1 << 22])
def test_the_smallest_and_the_distinct_hashes_are_found_in_few_at_a_time(most: int) -> None:
    values = mixed(np.arange(100, dtype=np.uint64) // np.uint64(3), 1, 2)
    parts = [values[:10], values[10:10], values[10:]]
    assert [smallest(lambda: parts, count, most=most) for count in (0, 1, 2, 50, 100)] == [
        -1, *(int(np.sort(values)[count - 1]) for count in (1, 2, 50, 100)),
    ]  # fmt: skip
    assert distinct(lambda: parts, 100, most=most) == 34
    assert smallest(lambda: [np.zeros(20, dtype=np.uint64)], 7, most=most) == 0


def test_the_largest_report_fits_the_termination_message() -> None:
    large = 10**12
    counts = {name: large for name, field in DatasetReport.model_fields.items() if field.annotation is int}
    report = DatasetReport(
        **counts,
        lengths=tuple(LengthBin(up_to=2**n, rows=large) for n in range(5, 22)),
        sources=(SourceReport(rows=large, tokens=large, bad_rows=large),) * 16,
        packing_efficiency=0.9876543210123456,
        template_digest="0" * 64,
        digest="0" * 64,
    )
    outcome = PrepareOutcome(
        exit_code=ExitCode.DONE,
        model=TINY,
        model_dir="/" + "x" * 200,
        model_revision="0" * 40,
        dataset=report,
        tokens_dir="/" + "x" * 90,
    )
    assert len(outcome.to_message().encode()) <= TERMINATION_MESSAGE_BYTES
