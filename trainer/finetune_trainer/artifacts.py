"""The files of an artifact, and the digest that tells whether it is still what was exported and checked."""

import hashlib
from pathlib import Path

from finetune_trainer import pulse


def files_of(folder: Path) -> list[Path]:
    """The files of an artifact, in the order in which its digest takes them; [] when it is gone."""
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def artifact_digest(folder: Path) -> str:
    """Over the sorted names and digests of the files in `folder`."""
    digest = hashlib.sha256()
    for path in files_of(folder):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def file_sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal digits; as LFS names it."""
    pulse.own.beat()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
