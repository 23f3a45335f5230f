"""Where models and datasets come from: a hub, fetched once into the cache volume, or a path on a volume."""

import difflib
import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from finetune_contract import DatasetConfig, HubSource, ModelSource, VolumeSource, paths
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.folders import complete, completed_facts, locked, partial_folder
from finetune_trainer.hubs import RepoType, hub_client

LOG = logging.getLogger(__name__)

MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".jinja")
"""What is fetched of a model repository's top folder; never pickles (*.bin, *.pt), never code."""
DATASET_SUFFIXES = (".json", ".jsonl", ".parquet")
MOUNTS = (str(paths.INPUTS_DIR), str(paths.CACHE_DIR), str(paths.OUTPUT_DIR))
"""Volumes of a pod; a path below one of them may not lead out of it through `..` or a link."""
PROGRESS_EVERY_SECONDS = 30.0


def resolved_model(source: ModelSource, cache_dir: Path, token: str | None) -> tuple[Path, str | None]:
    """The folder that holds the model, and the revision a hub resolved; fetches what is not in the cache yet."""
    if isinstance(source, VolumeSource):
        return existing_path(source.path, "model", want_folder=True), None
    return fetched(source, "model", cache_dir / "models", token, _model_files)


def resolved_dataset(config: DatasetConfig, cache_dir: Path, token: str | None) -> Path:
    """The file that holds the rows; fetches it if it is not in the cache yet."""
    if isinstance(config.source, VolumeSource):
        return existing_path(config.source.path, "dataset", want_folder=False)

    def only_its_file(source: HubSource, sizes: dict[str, int]) -> list[str]:
        return [_dataset_file(source, config.file, sizes)]

    root = cache_dir / "datasets" / hashlib.sha256((config.file or "").encode()).hexdigest()[:8]
    folder, _ = fetched(config.source, "dataset", root, token, only_its_file)
    marked = completed_facts(folder)
    assert marked is not None, "fetched() returns complete folders"
    return folder / str(marked["names"][0])


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
        partial = partial_folder(folder)
        partial.mkdir(parents=True, exist_ok=True)
        wanted = sum(listing.sizes[name] for name in names)
        with room_for(wanted, partial, f"{repo_type}.id: {source.id}"), _progress(partial, wanted, source.id):
            hub.download(source, repo_type, listing.revision, names, partial)
        _keep_only(partial, names)
        facts = {"source": source.model_dump(mode="json"), "revision": listing.revision, "names": names}
        complete(folder, facts, with_digests=False)
    return folder, listing.revision


def existing_path(path: str, field: RepoType, *, want_folder: bool, mounts: Sequence[str] = MOUNTS) -> Path:
    """The real path of something on a volume.

    Raises: PreparationError if it is not there, or leads out of its volume.
    """
    real = Path(os.path.realpath(path))
    for mount in mounts:
        if PurePosixPath(path).is_relative_to(mount) and not real.is_relative_to(os.path.realpath(mount)):
            raise PreparationError(
                "PathEscapes",
                f"{field}.path: {path} leads to {real}, outside of the volume at {mount}; name a path inside, without "
                "'..' and without links that leave the volume",
            )
    if real.is_dir() if want_folder else real.is_file():
        return real
    kind, other = ("folder", "file") if want_folder else ("file", "folder")
    seen = f"is a {other}, expected a {kind}" if real.exists() else f"does not exist, expected a {kind}"
    raise PreparationError(f"{field.capitalize()}NotFound", f"{field}.path: {path} {seen}; {_neighbours(real)}")


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


def _dataset_file(source: HubSource, wanted: str | None, sizes: dict[str, int]) -> str:
    rows = sorted(name for name in sizes if name.endswith(DATASET_SUFFIXES) and ".." not in PurePosixPath(name).parts)
    if wanted in rows:
        assert wanted is not None
        return wanted
    if wanted is None and len(rows) == 1:
        return rows[0]
    value = "is not set" if wanted is None else f"{wanted} is not in the repository, or none of .json, .jsonl, .parquet"
    raise PreparationError(
        "DatasetFileNotFound",
        f"dataset.file: {value}; {source.id} holds {', '.join(rows[:10]) or 'no .json, .jsonl or .parquet file'}",
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
def room_for(wanted: int, folder: Path, what: str) -> Iterator[None]:
    """Refuse a download that cannot fit, and say so in sizes if the volume fills up in spite of that."""
    missing = wanted - _bytes_below(folder)
    if missing > shutil.disk_usage(folder).free:
        raise no_space(folder, what, missing)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise no_space(folder, what, wanted - _bytes_below(folder)) from error


def no_space(folder: Path, what: str, needed: int | None) -> PreparationError:
    """The cache volume is full; `needed` are the bytes still to be written, if that is known."""
    usage = shutil.disk_usage(folder)
    needs = f" needs {gigabytes(needed)} more" if needed is not None else " needs more"
    return PreparationError(
        "NoSpace",
        f"storage.cache: {what}{needs}, and the volume at {folder} has {gigabytes(usage.free)} free of "
        f"{gigabytes(usage.total)}; enlarge it, or remove models and token caches that are no longer used",
    )


def gigabytes(count: int) -> str:
    """Bytes for reading: `16.38 GB`, `1.2 MB`."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


@contextmanager
def _progress(folder: Path, wanted: int, what: str) -> Iterator[None]:
    """Log how far a download is, for whoever watches the pod."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PROGRESS_EVERY_SECONDS):
            LOG.info("fetching %s: %s of %s", what, gigabytes(_bytes_below(folder)), gigabytes(wanted))

    LOG.info("fetching %s: %s to go", what, gigabytes(max(0, wanted - _bytes_below(folder))))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _bytes_below(folder: Path) -> int:
    """Bytes of all files; one that a client renames meanwhile counts as nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
