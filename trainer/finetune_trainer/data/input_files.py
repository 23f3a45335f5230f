"""The files that rows are read from, and what they hold, whatever their names are."""

import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_trainer.data.digests import Digests
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.parallel import available_cores

GZIP_SUFFIX = ".gz"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of rows."""

    path: Path
    name: str
    """As people know it: below its folder, repository or bucket."""
    source: int
    """Number of the source it belongs to: those to train on from 0, then that of the validation."""


def content_key(files: Sequence[InputFile], digests: Digests) -> str:
    """SHA-256 over what the files hold and how they are read; their places and names are left aside."""
    found = digests.of_all([file.path for file in files], workers=available_cores())
    parts = [[file.source, _ending(file.name), digest] for file, digest in zip(files, found, strict=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def inflated(file: InputFile, folder: Path, number: int) -> InputFile:
    """The file itself; one that ends with .gz is unpacked into `folder`, since a packed one cannot be read in pieces.

    Raises: PreparationError if it is cut off or damaged.
    """
    if not file.name.endswith(GZIP_SUFFIX):
        return file
    name = file.name.removesuffix(GZIP_SUFFIX)
    target = folder / f"{number:05d}{Path(name).suffix}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        try:
            with gzip.open(file.path) as packed, open(partial, "wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise PreparationError(
                "BadGzip", f"dataset: {file.name} cannot be unpacked: {error}; write or copy it anew"
            ) from error
        partial.rename(target)
    return replace(file, path=target, name=name)


def _ending(name: str) -> str:
    return "".join(Path(name).suffixes[-2:])
