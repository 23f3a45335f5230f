"""Fetching through the real Hugging Face and ModelScope clients from a hub on 127.0.0.1."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_contract import DatasetConfig, DataSource, ExitCode, HubKind, HubSource
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.dataset_files import train_files
from finetune_trainer.sources import SourceSecrets, resolved_dataset, resolved_model
from support.hub_server import COMMIT, HubServer, Repo, hub_server

WEIGHTS = bytes(range(256)) * 2000
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"import os",
    "onnx/config.json": b"{}",
}
WANTED = {name for name in FILES if "/" not in name and not name.endswith((".bin", ".py"))}
ROWS = b'{"instruction": "q", "output": "a"}\n'
BRANCH = {HubKind.HUGGING_FACE: "main", HubKind.MODEL_SCOPE: "master"}

both_hubs = pytest.mark.parametrize("kind", HubKind)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with a public model, a gated one, one without safetensors, and datasets."""
    with hub_server(
        open=Repo(dict(FILES)),
        gated=Repo(dict(FILES), token="t0ken"),
        pickled=Repo({"config.toml": b"{}", "pytorch_model.bin": b"a pickle"}),
        rows=Repo({"data/train.jsonl": ROWS, "README.md": b"hello"}),
        many_rows=Repo(
            {"train-00000.json": b"[]", "train-00001.json": b"[]", "test.json": ROWS, "more/rows.csv": b"a,b"}
        ),
        two_configs=Repo({"a/train.jsonl": ROWS, "b/train.jsonl": ROWS}),
    ) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


def source(kind: HubKind, name: str, revision: str | None = None) -> HubSource:
    return HubSource(hub=kind, id=f"acme/{name}", revision=revision or BRANCH[kind])


def serve_as(hub: HubServer, kind: HubKind) -> None:
    """Name the branch as this kind of hub does."""
    for repo in hub.repos.values():
        repo.branch = BRANCH[kind]


def failure_of(
    kind: HubKind, name: str, cache: Path, *, token: str | None = None, revision: str | None = None
) -> tuple[str, str]:
    """Reason and message of a model that cannot be fetched; a user's error."""
    with pytest.raises(PreparationError) as caught:
        resolved_model(source(kind, name, revision), cache, token)
    assert caught.value.failure.exit_code is ExitCode.USER_ERROR
    return caught.value.failure.reason, caught.value.failure.message


@both_hubs
def test_a_model_comes_with_safetensors_and_text_alone(hub: HubServer, kind: HubKind, tmp_path: Path) -> None:
    serve_as(hub, kind)
    folder, revision = resolved_model(source(kind, "open"), tmp_path, None)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "COMPLETE.json"} == {
        name: FILES[name] for name in WANTED
    }
    assert revision == (COMMIT if kind is HubKind.HUGGING_FACE else "master")


@both_hubs
def test_a_second_run_needs_no_network(
    hub: HubServer, kind: HubKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_as(hub, kind)
    first = resolved_model(source(kind, "open"), tmp_path, None)
    hub.requests.clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert resolved_model(source(kind, "open"), tmp_path, None) == first
    assert hub.requests == []


@both_hubs
def test_a_broken_off_download_goes_on_where_it_stopped(hub: HubServer, kind: HubKind, tmp_path: Path) -> None:
    serve_as(hub, kind)
    last = "model-00002-of-00002.safetensors"
    hub.repos["acme/open"].withheld.add(last)
    with pytest.raises(PreparationError):
        resolved_model(source(kind, "open"), tmp_path, None)
    assert not [path for path in (tmp_path / "models").iterdir() if not path.name.startswith(".")]
    hub.repos["acme/open"].withheld.clear()
    hub.requests.clear()
    folder, _ = resolved_model(source(kind, "open"), tmp_path, None)
    fetched = [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]
    assert len(fetched) == 1
    assert last in fetched[0]
    assert (folder / last).read_bytes() == FILES[last]


@both_hubs
def test_a_connection_that_breaks_within_a_file_is_mended(hub: HubServer, kind: HubKind, tmp_path: Path) -> None:
    serve_as(hub, kind)
    hub.repos["acme/open"].cut_after = 100_000
    folder, _ = resolved_model(source(kind, "open"), tmp_path, None)
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == WEIGHTS
    assert hub.repos["acme/open"].cut_after is None


@both_hubs
@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_gated_model_says_how_to_get_in(hub: HubServer, kind: HubKind, tmp_path: Path, token: str | None) -> None:
    serve_as(hub, kind)
    reason, message = failure_of(kind, "gated", tmp_path, token=token)
    assert reason == "ModelGated"
    assert f"model.id: acme/gated on {kind.value} is gated" in message
    assert "accept its terms on the hub's page and set model.tokenSecret" in message


@both_hubs
def test_a_gated_model_opens_to_its_token(hub: HubServer, kind: HubKind, tmp_path: Path) -> None:
    serve_as(hub, kind)
    folder, _ = resolved_model(source(kind, "gated"), tmp_path, "t0ken")
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    assert not any(b"t0ken" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@both_hubs
def test_a_missing_model_is_named(hub: HubServer, kind: HubKind, tmp_path: Path) -> None:
    serve_as(hub, kind)
    reason, message = failure_of(kind, "nope", tmp_path)
    assert reason == "ModelNotFound"
    assert f"model.id: acme/nope on {kind.value} does not exist, or is private; check the spelling" in message


@both_hubs
def test_a_missing_revision_is_told_from_a_missing_model(hub: HubServer, kind: HubKind, tmp_path: Path) -> None:
    serve_as(hub, kind)
    reason, message = failure_of(kind, "open", tmp_path, revision="v9")
    assert reason == "RevisionNotFound"
    assert f"model.revision: v9 is no branch, tag or commit of acme/open on {kind.value}" in message
    assert f"usually {BRANCH[kind]}" in message


@both_hubs
def test_a_model_without_safetensors_is_refused_before_anything_is_fetched(
    hub: HubServer, kind: HubKind, tmp_path: Path
) -> None:
    serve_as(hub, kind)
    reason, message = failure_of(kind, "pickled", tmp_path)
    assert reason == "NoSafetensors"
    assert "acme/pickled holds no *.safetensors in its top folder, only pytorch_model.bin" in message
    assert not any("pytorch_model" in request for request in hub.requests)


def test_a_hub_that_cannot_be_reached_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PreparationError, match="HF_ENDPOINT, MODELSCOPE_ENDPOINT") as caught:
        resolved_model(source(HubKind.HUGGING_FACE, "open"), tmp_path, None)
    assert caught.value.failure.reason == "HubUnreachable"
    assert caught.value.failure.exit_code is ExitCode.INFRASTRUCTURE


def test_a_hub_that_fails_may_be_tried_again(hub: HubServer, tmp_path: Path) -> None:
    hub.status = 500
    with pytest.raises(PreparationError) as caught:
        resolved_model(source(HubKind.HUGGING_FACE, "open"), tmp_path, None)
    assert caught.value.failure.exit_code is ExitCode.INFRASTRUCTURE


def test_what_cannot_fit_is_refused_in_sizes_before_it_is_fetched(hub: HubServer, tmp_path: Path) -> None:
    hub.repos["acme/open"].claimed_bytes = 10**15
    reason, message = failure_of(HubKind.HUGGING_FACE, "open", tmp_path)
    assert reason == "NoSpace"
    assert "model.id: acme/open needs 4,000,000.00 GB more" in message
    assert "enlarge it, or remove models and token caches" in message
    assert not any("resolve" in request for request in hub.requests)


def files_of(kind: HubKind, name: str, cache: Path, file: str | None = None) -> list[InputFile]:
    """The files of a dataset repository."""
    config = DatasetConfig(sources=(DataSource(source=source(kind, name), file=file),), max_tokens=64, seed=1)
    return resolved_dataset(config, cache, lambda _: SourceSecrets())


@both_hubs
def test_the_only_rows_of_a_dataset_are_found(hub: HubServer, kind: HubKind, tmp_path: Path) -> None:
    serve_as(hub, kind)
    (file,) = files_of(kind, "rows", tmp_path)
    assert (file.path.read_bytes(), file.name, file.source) == (ROWS, "data/train.jsonl", 0)
    assert [path.name for path in file.path.parent.iterdir()] == ["train.jsonl"]
    hub.requests.clear()
    assert files_of(kind, "rows", tmp_path) == [file]
    assert hub.requests == []


@both_hubs
def test_named_files_and_patterns_of_a_dataset_are_fetched(hub: HubServer, kind: HubKind, tmp_path: Path) -> None:
    serve_as(hub, kind)
    names = {pattern: [file.name for file in files_of(kind, "many-rows", tmp_path, pattern)] for pattern in PATTERNS}
    assert names == PATTERNS
    assert files_of(kind, "many-rows", tmp_path, "test.json")[0].path.read_bytes() == ROWS


PATTERNS = {
    None: ["train-00000.json", "train-00001.json"],
    "test.json": ["test.json"],
    "*.json": ["test.json", "train-00000.json", "train-00001.json"],
    "**/*.csv": ["more/rows.csv"],
}


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("two-configs", None, "dataset.file: is not set, and names do not tell which files are the train split; "),
        ("two-configs", None, "acme/two-configs holds a/train.jsonl, b/train.jsonl; name one, or several with * and ?"),
        ("many-rows", "valid.json", "dataset.file: valid.json is not in the repository; acme/many-rows holds more/"),
        ("many-rows", "../secret.json", "dataset.file: ../secret.json is not in the repository"),
        ("pickled", None, "acme/pickled holds no file with a name that ends with .json"),
    ],
)
def test_dataset_files_that_cannot_be_told_are_asked_for(
    hub: HubServer, tmp_path: Path, name: str, file: str | None, said: str
) -> None:
    with pytest.raises(PreparationError) as caught:
        files_of(HubKind.HUGGING_FACE, name, tmp_path, file)
    assert caught.value.failure.reason == "DatasetFileNotFound"
    assert said in caught.value.failure.message


def test_a_missing_dataset_is_named(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"dataset\.id: acme/nope on HuggingFace does not exist") as caught:
        files_of(HubKind.HUGGING_FACE, "nope", tmp_path)
    assert caught.value.failure.reason == "DatasetNotFound"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet"], 2),
        (["a.jsonl", "b.jsonl", "README.md"], 2),
        (["train.json", "train.parquet"], 0),
        (["test.json"], 0),
        (["trainer.json"], 1),
        (["train/a.csv.gz", "dev/a.csv.gz", ".train/b.csv.gz"], 1),
    ],
)
def test_the_train_split_is_told_by_names_or_not_at_all(names: list[str], expected: int) -> None:
    assert train_files(names) == names[:expected]
