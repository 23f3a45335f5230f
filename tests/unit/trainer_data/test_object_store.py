"""Rows from an S3-compatible store, through Arrow's own client from a server on 127.0.0.1 that checks signatures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_contract import DatasetConfig, DataSource, ExitCode, S3Source
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.object_store import KeyPair
from finetune_trainer.sources import SourceSecrets, resolved_dataset
from support.s3_server import ACCESS_KEY, SECRET_KEY, Store, s3_server

ROWS = b'{"instruction": "q", "output": "a"}\n'
KEYS = KeyPair(ACCESS_KEY, SECRET_KEY)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A private bucket."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    names = ("chats/a.jsonl", "chats/deep/b.csv", "chats/notes.txt", "chats.jsonl")
    with s3_server(Store({f"bucket/{name}": name.encode() + ROWS for name in names})) as served:
        yield served


def fetched(store: Store, key: str, cache: Path, keys: KeyPair | None = KEYS) -> dict[str, bytes]:
    """Name to content of the files that a URL stands for."""
    source = DataSource(source=S3Source(url=f"s3://bucket/{key}", endpoint=store.url, region="eu-central-1"))
    config = DatasetConfig(sources=(source,), max_tokens=64, seed=1)
    return {
        file.name: file.path.read_bytes()
        for file in resolved_dataset(config, cache, lambda _: SourceSecrets(keys=keys))
    }


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("chats.jsonl", ["chats.jsonl"]),
        ("chats/", ["chats/a.jsonl", "chats/deep/b.csv"]),
        ("chats/*.jsonl", ["chats/a.jsonl"]),
        ("**/*.csv", ["chats/deep/b.csv"]),
    ],
)
def test_an_object_a_folder_and_a_pattern_are_fetched(
    store: Store, tmp_path: Path, key: str, expected: list[str]
) -> None:
    assert fetched(store, key, tmp_path) == {name: name.encode() + ROWS for name in expected}


def test_an_object_is_fetched_again_when_it_has_changed_and_not_before(store: Store, tmp_path: Path) -> None:
    first = fetched(store, "chats.jsonl", tmp_path)
    store.requests.clear()
    assert fetched(store, "chats.jsonl", tmp_path) == first
    assert not any(request.startswith("GET bucket/chats.jsonl") for request in store.requests)
    store.objects["bucket/chats.jsonl"] = ROWS
    assert fetched(store, "chats.jsonl", tmp_path) == {"chats.jsonl": ROWS}


def test_a_download_goes_on_where_it_broke_off(store: Store, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    store.objects["bucket/chats.jsonl"] = content
    fetched(store, "chats.jsonl", tmp_path / "whole")
    (folder,) = (tmp_path / "whole" / "datasets").glob("s3-*")
    growing = tmp_path / "datasets" / f".{folder.name}.partial"
    growing.mkdir(parents=True)
    (growing / "00000-chats.jsonl").write_bytes(content[:20_000])
    store.requests.clear()
    assert fetched(store, "chats.jsonl", tmp_path) == {"chats.jsonl": content}
    assert [request for request in store.requests if request.startswith("GET")] == [
        "GET bucket/chats.jsonl bytes=20000-25599"
    ]


def test_a_public_object_needs_no_keys(store: Store, tmp_path: Path) -> None:
    store.is_public = True
    assert fetched(store, "chats.jsonl", tmp_path, None) == {"chats.jsonl": b"chats.jsonl" + ROWS}


@pytest.mark.parametrize("keys", [None, KeyPair(ACCESS_KEY, "wrong"), KeyPair("you", SECRET_KEY)])
def test_a_private_object_is_told_from_a_missing_one(store: Store, tmp_path: Path, keys: KeyPair | None) -> None:
    with pytest.raises(
        PreparationError, match=r"s3://bucket/chats\.jsonl may not be read with this key pair"
    ) as caught:
        fetched(store, "chats.jsonl", tmp_path, keys)
    assert (caught.value.failure.reason, caught.value.failure.exit_code) == ("DatasetDenied", ExitCode.USER_ERROR)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("nope.jsonl", "there is no such object"),
        ("chats", "for everything below it write s3://bucket/chats/"),
        ("chats/*.parquet", "has a name that ends with .json"),
    ],
)
def test_a_missing_object_is_named(store: Store, tmp_path: Path, key: str, said: str) -> None:
    with pytest.raises(PreparationError) as caught:
        fetched(store, key, tmp_path)
    assert caught.value.failure.reason == "DatasetNotFound"
    assert said in caught.value.failure.message


def test_a_store_that_cannot_be_reached_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"check network, proxy and dataset\.s3\.endpoint") as caught:
        fetched(Store({}, url="http://127.0.0.1:9"), "chats.jsonl", tmp_path)
    assert (caught.value.failure.reason, caught.value.failure.exit_code) == (
        "StoreUnreachable",
        ExitCode.INFRASTRUCTURE,
    )
