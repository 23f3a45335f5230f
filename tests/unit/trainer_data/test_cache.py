"""The token cache is whole or not there, keyed by what decides it, and written once."""

import fcntl
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_contract import DatasetConfig, DatasetReport, OverlongPolicy, VolumeSource
from finetune_trainer.data.build import build_tokens, cache_key
from finetune_trainer.data.cache import Split, open_tokens
from finetune_trainer.data.digests import Digests, file_digest
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.folders import (
    MARKER,
    complete,
    completed_facts,
    locked,
    partial_folder,
    sweep,
    work_folder,
)
from finetune_trainer.data.input_files import InputFile, content_key
from finetune_trainer.data.preview import preview
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.shards import ShardMaker, made_shards
from finetune_trainer.data.spool import Spool

Config = Callable[..., DatasetConfig]
ROWS = [{"instruction": f"Question {n}", "output": f"Answer {n} " + "so " * (n % 7)} for n in range(40)]


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    return written(tmp_path, ROWS)


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "rows.json"
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return file


def built(file: Path, config: DatasetConfig, tokenizer: Any) -> tuple[Path, DatasetReport]:
    files = [InputFile(file, file.name, 0)]
    return build_tokens(files, config, tokenizer, tokenizer_digest="t", cache_dir=file.parent)


def key_of(file: Path, config: DatasetConfig, tokenizer: str = "t", template: str = "c") -> str:
    digests = Digests(file.parent / "digests")
    return cache_key(content_key([InputFile(file, file.name, 0)], digests), config, tokenizer, template)


def texts(split: Split, tokenizer: Any) -> list[str]:
    """Every document of a split as text, sorted."""
    spans = zip(split.documents[:-1], split.documents[1:], strict=True)
    return sorted(tokenizer.decode(split.input_ids[begin:end].tolist()) for begin, end in spans)


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files below a folder."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_no_token_is_lost_or_doubled_by_packing(rows_file: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    packed_dir, packed = built(rows_file, dataset_config(packing=True), tiny_tokenizer)
    loose_dir, loose = built(rows_file, dataset_config(packing=False), tiny_tokenizer)
    one, other = open_tokens(packed_dir).training, open_tokens(loose_dir).training
    assert texts(one, tiny_tokenizer) == texts(other, tiny_tokenizer)
    assert len(texts(one, tiny_tokenizer)) == 40
    assert (packed.tokens, packed.supervised_tokens) == (loose.tokens, loose.supervised_tokens)
    assert packed.sequences < loose.sequences == 40
    assert packed.packing_efficiency == packed.tokens / (packed.sequences * 128)
    assert loose.packing_efficiency == 1.0


def test_the_report_counts_what_is_in_the_cache(rows_file: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    folder, report = built(rows_file, dataset_config(validation={"fraction": 0.1}), tiny_tokenizer)
    cache = open_tokens(folder)
    assert cache.validation is not None
    assert report.rows == cache.training.num_documents == 36
    assert report.validation_rows == cache.validation.num_documents == 4
    assert report.tokens == len(cache.training.input_ids)
    assert report.supervised_tokens == int(cache.training.supervised.sum()) == cache.training.supervised_tokens
    assert report.longest_sequence == int(np.diff(cache.training.documents[cache.training.sequences]).max())
    assert report.digest == folder.name
    assert not cache.training.supervised[cache.training.documents[:-1]].any()


def test_validation_rows_are_held_out_of_training(rows_file: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    folder, _ = built(rows_file, dataset_config(validation={"fraction": 0.25}), tiny_tokenizer)
    cache = open_tokens(folder)
    assert cache.validation is not None
    training, validation = (texts(split, tiny_tokenizer) for split in (cache.training, cache.validation))
    whole, _ = built(rows_file, dataset_config(), tiny_tokenizer)
    assert sorted(training + validation) == texts(open_tokens(whole).training, tiny_tokenizer)


def test_another_seed_holds_out_other_rows(rows_file: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    held_out = []
    for seed in (1, 2):
        folder, _ = built(rows_file, dataset_config(validation={"fraction": 0.25}, seed=seed), tiny_tokenizer)
        split = open_tokens(folder).validation
        assert split is not None
        held_out.append(texts(split, tiny_tokenizer))
    assert held_out[0] != held_out[1]


def test_a_second_preparation_writes_nothing(rows_file: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    first = built(rows_file, dataset_config(), tiny_tokenizer)
    before = state_of(first[0])
    assert built(rows_file, dataset_config(), tiny_tokenizer) == first
    assert state_of(first[0]) == before


def test_the_same_rows_elsewhere_share_the_cache(rows_file: Path, dataset_config: Config) -> None:
    copy = rows_file.with_name("copy.json")
    copy.write_bytes(rows_file.read_bytes())
    config = dataset_config()
    assert key_of(rows_file, config) == key_of(copy, config)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 64},
        {"packing": False},
        {"seed": 8},
        {"system_prompt": "x"},
        {"validation": {"fraction": 0.1}},
        {"bad_rows": {"policy": "Skip"}},
        {"sources": ({"source": VolumeSource(path="rows.json"), "weight": 2},)},
    ],
)
def test_whatever_changes_the_tokens_changes_the_key(
    rows_file: Path, dataset_config: Config, change: dict[str, Any]
) -> None:
    key = key_of(rows_file, dataset_config())
    assert key_of(rows_file, dataset_config(**change)) != key
    assert key_of(rows_file, dataset_config(), "other tokenizer") != key
    assert key_of(rows_file, dataset_config(), template="other template") != key
    rows_file.write_text(rows_file.read_text().replace("Answer", "answer"))
    assert key_of(rows_file, dataset_config()) != key


def test_two_builds_write_the_same_bytes(tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    markers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        folder, _ = built(written(tmp_path / name, ROWS), dataset_config(validation={"fraction": 0.1}), tiny_tokenizer)
        markers.append((folder / MARKER).read_text())
    assert markers[0] == markers[1]


def test_arrays_are_memory_maps_without_pickles(rows_file: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    folder, _ = built(rows_file, dataset_config(), tiny_tokenizer)
    split = open_tokens(folder).training
    assert isinstance(split.input_ids, np.memmap)
    assert (split.input_ids.dtype.name, split.supervised.dtype.name) == ("int32", "uint8")
    np.save(folder / "training" / "sequences.npy", np.array([{"evil": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects in dtype"):
        Split.opened(folder / "training")


@pytest.mark.parametrize("damage", ["marker gone", "file gone", "file cut"])
def test_a_damaged_cache_is_not_opened(
    rows_file: Path, dataset_config: Config, tiny_tokenizer: Any, damage: str
) -> None:
    folder, _ = built(rows_file, dataset_config(), tiny_tokenizer)
    target = folder / MARKER if damage == "marker gone" else folder / "training" / "input_ids.npy"
    if damage == "file cut":
        os.truncate(target, 100)
    else:
        target.unlink()
    with pytest.raises(PreparationError, match="is not a complete token cache; run the preparation again") as caught:
        open_tokens(folder)
    assert caught.value.failure.reason == "TokensIncomplete"


def test_a_flipped_byte_is_found_and_the_cache_written_anew(
    rows_file: Path, dataset_config: Config, tiny_tokenizer: Any
) -> None:
    folder, report = built(rows_file, dataset_config(), tiny_tokenizer)
    file = folder / "training" / "input_ids.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert built(rows_file, dataset_config(), tiny_tokenizer) == (folder, report)
    assert file.read_bytes() == whole


MANY = [{"instruction": f"Question {n}", "output": f"Answer {n} " + "so " * 200} for n in range(500)]


@pytest.mark.parametrize(("syncs", "complete"), [(1, 0), (3, 0), (4, 1), (11, 3)])
def test_a_killed_preparation_is_continued_behind_its_last_complete_shard(
    tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any, syncs: int, complete: int
) -> None:
    file, config = written(tmp_path, MANY), dataset_config()
    target = tmp_path / "tokens" / key_of(file, config, template=tiny_tokenizer.chat_template)
    shards = work_folder(target) / "shards"
    dying = multiprocessing.get_context("fork").Process(target=_die, args=(syncs, shards, file, config, tiny_tokenizer))
    dying.start()
    dying.join()
    assert dying.exitcode == 9
    spool = Spool(shards)
    assert len(list(spool.complete())) == complete
    maker = ShardMaker([InputFile(file, file.name, 0)], config, Renderer(tiny_tokenizer, config), spool)
    assert [job.number for job in maker.jobs()] == list(range(complete, 6))
    folder, report = built(file, config, tiny_tokenizer)
    assert folder == target
    assert report.rows == 500
    assert [path for path in (tmp_path / "tokens").iterdir() if path.is_dir()] == [folder]
    unbroken, _ = built(written(tmp_path / "other", MANY), config, tiny_tokenizer)
    assert (folder / MARKER).read_bytes() == (unbroken / MARKER).read_bytes()


def _die(syncs: int, shards: Path, file: Path, config: DatasetConfig, tokenizer: Any) -> None:
    """Make shards and be killed on wanting to make so many files safe, of three for each shard."""
    left = iter(range(syncs - 1))

    def sync(_: int) -> None:
        if next(left, None) is None:
            os._exit(9)

    spool = Spool(shards, sync=sync)
    maker = ShardMaker([InputFile(file, file.name, 0)], config, Renderer(tokenizer, config), spool)
    made_shards(maker, spool, workers=1)


def test_what_was_left_behind_long_ago_is_swept_unless_somebody_works_on_it(tmp_path: Path) -> None:
    for name in (".old.work", ".held.work", ".new.work"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0) if name != ".new.work" else None)
    with open(tmp_path / ".held.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(tmp_path, now=time.time())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [".held.work", ".new.work"]


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text("[1]")
    later = Digests(tmp_path / "digests", now=lambda: time.time() + 60)
    assert later.of(file) == file_digest(file)
    (entry,) = (tmp_path / "digests").iterdir()
    entry.write_text(entry.read_text().replace(file_digest(file), "remembered"))
    assert later.of(file) == "remembered"
    before = file.stat()
    file.write_text("[2]")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert later.of(file) == file_digest(file)


def test_a_file_that_has_just_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text("[1]")
    Digests(tmp_path / "digests").of(file)
    assert not (tmp_path / "digests").exists()


def test_two_preparations_of_the_same_rows_do_not_collide(
    rows_file: Path, dataset_config: Config, tiny_tokenizer: Any
) -> None:
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=built, args=(rows_file, dataset_config(), tiny_tokenizer), daemon=True) for _ in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    assert completed_facts(built(rows_file, dataset_config(), tiny_tokenizer)[0], digest_of=file_digest)


def test_a_lock_is_held_against_others_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    context = multiprocessing.get_context("fork")
    with locked(target):
        other = context.Process(target=_complete_under_lock, args=(target,), daemon=True)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert not target.exists()
    other.join(30)
    assert completed_facts(target) == {"by": "other"}


def _complete_under_lock(target: Path) -> None:
    with locked(target):
        partial_folder(target).mkdir()
        complete(target, {"by": "other"}, with_digests=True)


LONG = {"instruction": "q", "output": "word " * 200}
LONG_QUESTION = {"instruction": "word " * 200, "output": "a"}


def test_an_overlong_row_is_cut_and_one_without_anything_left_to_learn_is_dropped(
    tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any
) -> None:
    _, report = built(written(tmp_path, [*ROWS, LONG, LONG_QUESTION]), dataset_config(), tiny_tokenizer)
    assert (report.rows, report.truncated_rows, report.dropped_rows) == (41, 1, 1)
    assert report.length_max > 128 >= report.longest_sequence


def test_overlong_rows_are_dropped_and_counted(tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    config = dataset_config(overlong=OverlongPolicy.DROP)
    _, report = built(written(tmp_path, [*ROWS, LONG]), config, tiny_tokenizer)
    assert (report.rows, report.truncated_rows, report.dropped_rows) == (40, 0, 1)


def test_overlong_rows_are_refused_by_line(tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    with pytest.raises(PreparationError) as caught:
        built(written(tmp_path, [ROWS[0], LONG]), dataset_config(overlong=OverlongPolicy.REFUSE), tiny_tokenizer)
    failure = caught.value.failure
    assert failure.reason == "RowTooLong"
    assert failure.details[0].startswith("line 6, row 2: ")
    assert "dataset.maxTokens allows 128; raise it, shorten the row, or set dataset.overlong" in failure.message


@pytest.mark.parametrize("text", ["", "[]", "\n\n"])
def test_an_empty_dataset_is_refused(tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(PreparationError, match=r"rows\.json holds no rows; expected a JSON array of objects") as caught:
        built(tmp_path / "rows.json", dataset_config(), tiny_tokenizer)
    assert caught.value.failure.reason == "EmptyDataset"


def test_a_limit_that_leaves_no_row_is_refused(tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    with pytest.raises(PreparationError, match="leaves none of the 1 rows") as caught:
        built(written(tmp_path, [LONG_QUESTION]), dataset_config(), tiny_tokenizer)
    assert caught.value.failure.reason == "EmptyDataset"


def test_validation_of_a_single_row_is_refused(tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    with pytest.raises(PreparationError, match="leaves none to train on; set it to 0 or bring more rows"):
        built(written(tmp_path, ROWS[:1]), dataset_config(validation={"fraction": 0.5}), tiny_tokenizer)


def test_broken_json_is_named_by_line(tmp_path: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    (tmp_path / "rows.json").write_text('[\n{"instruction": "q", "output": "a"},\n{"instruction" "q"}\n]')
    with pytest.raises(PreparationError) as caught:
        built(tmp_path / "rows.json", dataset_config(), tiny_tokenizer)
    failure = caught.value.failure
    assert failure.reason == "BrokenFile"
    assert (
        """rows.json breaks off in line 3, behind row 1: broken JSON: Expecting ':' delimiter at column 16: """
        """{"instruction" ⟨here⟩"q"}. What follows cannot be read"""
    ) in failure.message


def test_a_preview_marks_what_is_learnt(rows_file: Path, dataset_config: Config, tiny_tokenizer: Any) -> None:
    folder, _ = built(rows_file, dataset_config(), tiny_tokenizer)
    shown = preview(open_tokens(folder), tiny_tokenizer)
    assert len(shown) == 3
    for text in shown:
        assert text.startswith("<|im_start|>user\nQuestion ")
        assert "<think>\n\n</think>\n\n⟦Answer " in text
        assert text.endswith("<|im_end|>⟧")
