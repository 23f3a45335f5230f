"""Where models and datasets come from: a hub or a store, fetched once into the cache volume, or a path on a volume."""

import difflib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from finetune_contract import DatasetConfig, DataSource, HubSource, ModelSource, S3Source, VolumeSource, paths
from finetune_trainer.data.disk_space import bytes_below, gigabytes, room_for
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.folders import complete, completed_facts, locked, partial_folder
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.dataset_files import (
    endings,
    fixed_part,
    is_pattern,
    matching,
    row_files,
    shown,
    train_files,
)
from finetune_trainer.hubs import RepoType, hub_client
from finetune_trainer.object_store import KeyPair, ObjectStore

LOG = logging.getLogger(__name__)

MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".jinja")
"""What is fetched of a model repository's top folder; never pickles (*.bin, *.pt), never code."""
MOUNTS = (str(paths.INPUTS_DIR), str(paths.CACHE_DIR), str(paths.OUTPUT_DIR))
"""Volumes of a pod; a path below one of them may not lead out of it through `..` or a link."""
PROGRESS_EVERY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class SourceSecrets:
    """What opens one source; nothing is needed for what is public."""

    token: str | None = None
    """Of a hub."""
    keys: KeyPair | None = None
    """Of a store."""


Secrets = Callable[[int], SourceSecrets]
"""By the number of a source."""


def resolved_model(source: ModelSource, cache_dir: Path, token: str | None) -> tuple[Path, str | None]:
    """The folder that holds the model, and the revision a hub resolved; fetches what is not in the cache yet."""
    if isinstance(source, VolumeSource):
        return existing_folder(source.path, "model"), None
    return fetched(source, "model", cache_dir / "models", token, _model_files)


def resolved_dataset(config: DatasetConfig, cache_dir: Path, secrets: Secrets) -> list[InputFile]:
    """The files that hold the rows, of the sources to train on and of the validation's own; fetched if need be."""
    sources = [*config.sources, *([config.validation.source] if config.validation.source else [])]
    found: list[InputFile] = []
    for number, source in enumerate(sources):
        is_validation = number == len(config.sources)
        field = (
            "dataset.validation"
            if is_validation
            else f"dataset.mix[{number}]"
            if len(config.sources) > 1
            else "dataset"
        )
        files = _files(source, field, cache_dir / "datasets", secrets(number))
        found += [InputFile(path, name, number) for path, name in files]
    return found


def _files(source: DataSource, field: str, root: Path, secrets: SourceSecrets) -> list[tuple[Path, str]]:
    """Places and names of a source's files."""
    if isinstance(source.source, VolumeSource):
        return volume_files(source.source.path, field)
    if isinstance(source.source, S3Source):
        return _objects(source.source, root, secrets.keys)
    root /= hashlib.sha256((source.file or "").encode()).hexdigest()[:8]
    folder, _ = fetched(source.source, "dataset", root, secrets.token, partial(_dataset_files, source.file))
    marked = completed_facts(folder)
    assert marked is not None, "fetched() returns complete folders"
    return [(folder / name, name) for name in marked["names"]]


def _objects(source: S3Source, root: Path, keys: KeyPair | None) -> list[tuple[Path, str]]:
    """The objects of a store in the versions that they have now."""
    store = ObjectStore(source, keys)
    listing = store.listing()
    named = [(found, f"{number:05d}-{PurePosixPath(found.key).name}") for number, found in enumerate(listing)]
    key = json.dumps([source.url, source.endpoint, [[found.key, found.bytes, found.version] for found in listing]])
    folder = root / f"s3-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    with locked(folder):
        if completed_facts(folder) is None:
            growing = partial_folder(folder)
            growing.mkdir(parents=True, exist_ok=True)
            wanted = sum(found.bytes for found in listing)
            with room_for(wanted, growing, f"dataset.url: {source.url}"), _progress(growing, wanted, source.url):
                for found, name in named:
                    store.download(found, growing / name)
            complete(folder, {"source": source.model_dump(mode="json")}, with_digests=False)
    return [(folder / name, found.key) for found, name in named]


def fetched(
    source: HubSource,
    repo_type: RepoType,
    root: Path,
    token: str | None,
    choose: Callable[[HubSource, dict[str, int]], list[str]],
) -> tuple[Path, str]:
    """The complete folder of `source` below `root`, and its revision; a second call needs no network.

    A revision is resolved once: a branch that moves on is not fetched again until its folder is removed.
    """
    folder = root / _folder_name(source)
    with locked(folder):
        facts = completed_facts(folder)
        if facts is not None:
            LOG.info("%s: %s at %s is in the cache, no network needed", repo_type, source.id, facts["revision"])
            return folder, facts["revision"]
        hub = hub_client(source.hub, token)
        listing = hub.listing(source, repo_type)
        names = choose(source, listing.sizes)
        growing = partial_folder(folder)
        growing.mkdir(parents=True, exist_ok=True)
        wanted = sum(listing.sizes[name] for name in names)
        with room_for(wanted, growing, f"{repo_type}.id: {source.id}"), _progress(growing, wanted, source.id):
            hub.download(source, repo_type, listing.revision, names, growing)
        _keep_only(growing, names)
        facts = {"source": source.model_dump(mode="json"), "revision": listing.revision, "names": names}
        complete(folder, facts, with_digests=False)
    return folder, listing.revision


def volume_files(path: str, field: str, *, mounts: Sequence[str] = MOUNTS) -> list[tuple[Path, str]]:
    """The files that a path on a volume stands for, and their names: a file, a folder's files of rows, or a pattern's.

    Raises: PreparationError if there is none, or one leads out of its volume.
    """
    top = _inside(fixed_part(path), field, mounts)
    if not is_pattern(path) and top.is_file():
        return [(top, PurePosixPath(path).name)]
    if not top.is_dir():
        expected = "a file, or a folder with files of rows"
        raise PreparationError(
            "DatasetNotFound", f"{field}.path: {path} does not exist, expected {expected}; {_neighbours(top)}"
        )
    names = sorted(str(PurePosixPath(found.relative_to(top))) for found in top.rglob("*") if found.is_file())
    inner = path.removeprefix(fixed_part(path)).lstrip("/")
    chosen = matching(inner, names) if is_pattern(path) else row_files(names)
    if not chosen:
        wanted = "matches that" if is_pattern(path) else f"has a name that ends with {endings()}"
        raise PreparationError(
            "DatasetNotFound",
            f"{field}.path: {path}: none of the {len(names):,} files there {wanted}; {_neighbours(top)}",
        )
    return [(_inside(f"{top}/{name}", field, mounts), name) for name in chosen]


def existing_folder(path: str, field: str, *, mounts: Sequence[str] = MOUNTS) -> Path:
    """The real path of a folder on a volume.

    Raises: PreparationError if it is not there, or leads out of its volume.
    """
    real = _inside(path, field, mounts)
    if real.is_dir():
        return real
    seen = "is a file, expected a folder" if real.exists() else "does not exist, expected a folder"
    raise PreparationError(f"{field.capitalize()}NotFound", f"{field}.path: {path} {seen}; {_neighbours(real)}")


def _inside(path: str, field: str, mounts: Sequence[str]) -> Path:
    """Where a path leads, which is on the volume that it begins on."""
    real = Path(os.path.realpath(path))
    for mount in mounts:
        if PurePosixPath(path).is_relative_to(mount) and not real.is_relative_to(os.path.realpath(mount)):
            raise PreparationError(
                "PathEscapes",
                f"{field}.path: {path} leads to {real}, outside of the volume at {mount}; name a path inside, without "
                "'..' and without links that leave the volume",
            )
    return real


def _neighbours(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = difflib.get_close_matches(path.name, names, n=3)
    shown = close or names[:10]
    return f"{folder} holds {', '.join(shown) or 'nothing'}{' and more' if len(names) > len(shown) else ''}"


def _model_files(source: HubSource, sizes: dict[str, int]) -> list[str]:
    names = sorted(name for name in sizes if "/" not in name and name.endswith(MODEL_SUFFIXES))
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in sorted(sizes) if name.endswith((".bin", ".pt", ".pth", ".gguf"))]
        raise PreparationError(
            "NoSafetensors",
            f"model.id: {source.id} holds no *.safetensors in its top folder"
            + (f", only {', '.join(pickles[:3])}, which are never loaded" if pickles else "")
            + "; use a repository with safetensors, such as Qwen/Qwen3-8B",
        )
    return names


def _dataset_files(wanted: str | None, source: HubSource, sizes: dict[str, int]) -> list[str]:
    """The files of a repository that are wanted: by name or pattern, else those of its train split."""
    there = [name for name in sizes if ".." not in PurePosixPath(name).parts]
    if wanted is None:
        chosen = train_files(there)
        value = "is not set, and names do not tell which files are the train split"
    else:
        chosen = matching(wanted, there)
        value = f"{wanted} is not in the repository"
    if chosen:
        return chosen
    rows = shown(row_files(there)) or f"no file with a name that ends with {endings()}"
    raise PreparationError(
        "DatasetFileNotFound",
        f"dataset.file: {value}; {source.id} holds {rows}; name one, or several with * and ?",
    )


def _folder_name(source: HubSource) -> str:
    key = json.dumps([source.hub.value, source.id, source.revision])
    readable = source.id.replace("/", "--")[-80:]
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _keep_only(folder: Path, names: Sequence[str]) -> None:
    """Remove the clients' own bookkeeping and what another revision left behind."""
    wanted = {folder / name for name in names}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in wanted:
            path.unlink()


@contextmanager
def _progress(folder: Path, wanted: int, what: str) -> Iterator[None]:
    """Log how far a download is, for whoever watches the pod."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PROGRESS_EVERY_SECONDS):
            LOG.info("fetching %s: %s of %s", what, gigabytes(bytes_below(folder)), gigabytes(wanted))

    LOG.info("fetching %s: %s to go", what, gigabytes(max(0, wanted - bytes_below(folder))))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
